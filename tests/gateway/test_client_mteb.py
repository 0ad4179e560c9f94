"""MTEB's tasks through a gateway, and the scores against those computed here."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from e2rank_client import Document, E2RankClient, E2RankOptions
from e2rank_server.gateway.server import GatewayServer
from tests.gateway.running_gateway import LIMITS
from tests.unit.engine_rig import DIMENSION, EngineRig

MAX_DOCUMENT_BYTES = 400
HEAD = E2RankOptions(prompt_documents=3)


@dataclass
class Evaluation:
    """A gateway, a client of it, and MTEB, whose calls block and so are made in a thread."""

    rig: EngineRig
    client: E2RankClient
    adapter: ModuleType
    tasks: ModuleType
    folder: Path

    async def run(self, model: Any, task: Any) -> tuple[float, dict[str, dict[str, float]]]:
        """Return the task's main score, and the scores of each query's documents."""
        evaluate = importlib.import_module("mteb").evaluate
        result = await asyncio.to_thread(
            evaluate,
            model,
            task,
            cache=None,
            co2_tracker=False,
            prediction_folder=self.folder,
            show_progress_bar=False,
        )
        [split] = result.task_results[0].scores["test"]
        name = f"{task.metadata.name}_predictions.json"
        predictions = json.loads((self.folder / name).read_text())["default"]["test"]
        return split["main_score"], predictions

    async def encoder(self) -> Any:
        return await asyncio.to_thread(self.adapter.MtebEncoder, self.client)

    async def reranker(self, method: Any = None) -> Any:
        return await asyncio.to_thread(self.adapter.MtebReranker, self.client, method=method)


@pytest.fixture
async def evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Evaluation]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("mteb", exc_type=ImportError)  # seconds, so not when tests are collected
    adapter = importlib.import_module("e2rank_client.mteb")
    tasks = importlib.import_module("tests.gateway.tiny_mteb_tasks")
    rig = EngineRig()
    server = GatewayServer(
        [rig.model],
        replace(LIMITS, max_document_bytes=MAX_DOCUMENT_BYTES),
        address="127.0.0.1:0",
        max_concurrent_requests=10,
        health_interval_seconds=0.01,
    )
    with E2RankClient(await server.start()) as client:
        await asyncio.to_thread(client.wait_until_ready)
        rig.tokenizer.documents.clear()  # those of the warm-up
        rig.tokenizer.prompts.clear()
        yield Evaluation(rig, client, adapter, tasks, tmp_path)
    await server.stop(0)


def names(scores: dict[str, float]) -> list[str]:
    return sorted(scores, key=lambda name: -scores[name])


async def test_a_retrieval_task_scores_as_its_cosines_do(evaluation: Evaluation) -> None:
    measures = pytest.importorskip("ir_measures")
    tasks, client = evaluation.tasks, evaluation.client
    score, predictions = await evaluation.run(await evaluation.encoder(), tasks.TinyRetrieval())

    titles = [tasks.TITLES.get(name, "Notes") for name in tasks.CORPUS]
    queries = await asyncio.to_thread(
        client.embed,
        list(tasks.QUERIES.values()),
        input_type="QUERY",
        instruction=tasks.INSTRUCTION,
    )
    documents = await asyncio.to_thread(
        client.embed_many, list(tasks.CORPUS.values()), input_type="DOCUMENT", titles=titles
    )
    cosines = queries.vectors @ documents.vectors.T
    for query, row in zip(tasks.QUERIES, cosines, strict=True):
        assert predictions[query] == pytest.approx(
            dict(zip(tasks.CORPUS, row.tolist(), strict=True)), abs=1e-6
        )
    expected = measures.calc_aggregate([measures.nDCG @ 10], tasks.RELEVANT, predictions)
    assert 0 < score < 1
    assert score == pytest.approx(expected[measures.nDCG @ 10], abs=1e-5)


async def test_the_tasks_instruction_goes_to_queries_alone(evaluation: Evaluation) -> None:
    encoder, tasks = await evaluation.encoder(), evaluation.tasks
    _, told = await evaluation.run(encoder, tasks.TinyRetrieval())
    untold = tasks.TinyRetrieval()
    untold.metadata = untold.metadata.model_copy(update={"prompt": None})
    _, silent = await evaluation.run(encoder, untold)
    assert told["q1"]["leaf"] < silent["q1"]["leaf"]  # three more words that no document has
    documents = evaluation.rig.tokenizer.documents
    assert sorted(documents) == sorted(tasks.CORPUS.values())  # and cached for the second run


async def test_candidates_are_reranked_in_the_first_stages_order(evaluation: Evaluation) -> None:
    tasks, client = evaluation.tasks, evaluation.client
    task = tasks.TinyRetrieval()
    _, first_stage = await evaluation.run(await evaluation.encoder(), task)
    task.convert_to_reranking(evaluation.folder, top_k=5)
    _, predictions = await evaluation.run(await evaluation.reranker(HEAD), task)
    for query, text in tasks.QUERIES.items():
        candidates = names(first_stage[query])[:5]
        answer = await asyncio.to_thread(
            client.rerank,
            text,
            [Document(tasks.CORPUS[n], title=tasks.TITLES.get(n, "Notes")) for n in candidates],
            instruction=tasks.INSTRUCTION,
            method=HEAD,
        )
        expected = {candidates[each.index]: each.relevance_score for each in answer.results}
        assert predictions[query] == pytest.approx(expected)
        assert predictions[query] != pytest.approx({n: first_stage[query][n] for n in candidates})


async def test_a_list_that_begins_with_the_relevant_documents_tells_the_prompt_nothing(
    evaluation: Evaluation,
) -> None:
    reranker, tasks = await evaluation.reranker(HEAD), evaluation.tasks
    score, told = await evaluation.run(reranker, tasks.TinyReranking())
    reversed_score, reversed_ = await evaluation.run(reranker, tasks.TinyRerankingReversed())
    assert score == reversed_score
    assert told == reversed_
    shown = {
        document.text
        for prompt in evaluation.rig.tokenizer.prompts
        for document in prompt.documents
    }
    assert len(shown) < len(tasks.CORPUS)  # the order does decide who is shown


async def test_a_task_without_candidates_says_how_to_get_some(evaluation: Evaluation) -> None:
    with pytest.raises(ValueError, match=r"TinyRetrieval has no candidates.*convert_to_reranking"):
        await evaluation.run(await evaluation.reranker(), evaluation.tasks.TinyRetrieval())


async def test_no_more_than_the_wanted_number_of_results_is_returned(
    evaluation: Evaluation,
) -> None:
    reranker, tasks = await evaluation.reranker("COSINE"), evaluation.tasks
    reranker.index({"id": ["a", "b", "c"]})
    reranker._corpus = [{"text": "one sea"}, {"text": "two seas"}, {"text": " "}]
    result = await asyncio.to_thread(
        reranker.search,
        [{"id": "q", "text": "one"}, {"id": "r", "text": "two"}, {"id": "s", "text": "none"}],
        task_metadata=tasks.TinyRetrieval.metadata,
        top_k=1,
        top_ranked={"q": ["b", "a", "c"], "r": ["a", "b"]},
        encode_kwargs={"show_progress_bar": False},
    )
    assert {query: list(scores) for query, scores in result.items()} == {
        "q": ["a"],
        "r": ["b"],
        "s": [],
    }


async def test_blank_and_overlong_texts_do_not_end_an_evaluation(evaluation: Evaluation) -> None:
    encoder, tasks = await evaluation.encoder(), evaluation.tasks
    long = "sea " * MAX_DOCUMENT_BYTES
    batches = [
        {"text": ["ignored", "x"], "title": ["water", ""], "body": ["sea", " "]},
        {"text": [long]},
    ]

    async def encode(**arguments: Any) -> Any:
        return await asyncio.to_thread(
            encoder.encode,
            batches,
            task_metadata=tasks.TinyRetrieval.metadata,
            show_progress_bar=False,
            **arguments,
        )

    vectors = await encode(prompt_type="document")
    assert vectors.shape == (3, DIMENSION)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0, 1])
    assert evaluation.rig.tokenizer.documents[0] == "sea"
    assert len(evaluation.rig.tokenizer.documents[-1].encode()) == MAX_DOCUMENT_BYTES
    await encode()
    assert max(len(query.encode()) for query in evaluation.rig.tokenizer.queries) == (
        LIMITS.max_query_bytes
    )


async def test_results_are_filed_under_the_profile_its_fingerprint_and_the_method(
    evaluation: Evaluation,
) -> None:
    encoder, reranker = await evaluation.encoder(), await evaluation.reranker(HEAD)
    mteb = importlib.import_module("mteb")
    assert isinstance(encoder, mteb.EncoderProtocol)
    assert isinstance(reranker, mteb.SearchProtocol)
    for model in (encoder, reranker):
        assert model.mteb_model_meta.name == f"e2rank-server/{evaluation.rig.profile.name}"
        assert model.mteb_model_meta.revision == "f"
    assert encoder.mteb_model_meta.embed_dim == DIMENSION
    other = await evaluation.reranker("COSINE")
    assert "prompt_documents_3" in reranker.mteb_model_meta.experiment_name
    assert reranker.mteb_model_meta.experiment_name != other.mteb_model_meta.experiment_name


def test_the_similarity_is_the_cosine() -> None:
    pytest.importorskip("mteb", exc_type=ImportError)
    encoder = importlib.import_module("e2rank_client.mteb").MtebEncoder
    first, second = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[3.0, 3.0], [0.0, 5.0]])
    half = pytest.approx(2**-0.5)
    assert encoder.similarity(None, first, second).tolist() == [[half, 0], [half, 1]]
    assert encoder.similarity_pairwise(None, first, second).tolist() == [half, 1]
