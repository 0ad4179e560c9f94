"""MTEB's tasks on a running server. Needs the extra `mteb`.

    import mteb
    from e2rank_client import E2RankClient
    from e2rank_client.mteb import MtebEncoder, MtebReranker

    with E2RankClient("localhost:50051") as client:
        task = mteb.get_task("SciFact")
        mteb.evaluate(MtebEncoder(client), task, prediction_folder="dense")
        task.convert_to_reranking("dense", top_k=100)
        mteb.evaluate(MtebReranker(client), task)

Results are filed under `e2rank-server/<profile>` and the model's fingerprint; a
reranker's also under its method and the prompt's template.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any, TypeAlias

import numpy as np
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.similarity_functions import cos_sim, pairwise_cos_sim
from tqdm.auto import tqdm

from e2rank_client.client import E2RankClient
from e2rank_client.method_options import MethodChoice, MethodOptions
from e2rank_client.types import (
    CosineOptions,
    Document,
    E2RankOptions,
    FloatArray,
    InputType,
    LlmListwiseOptions,
    Method,
    Model,
    VectorPrfOptions,
)

logger = logging.getLogger(__name__)

Batches: TypeAlias = Iterable[Mapping[str, Any]]
"""MTEB's data loader: lists of strings by name, `text` or, of a corpus, also `title` and `body`."""
Ranking: TypeAlias = dict[str, dict[str, float]]
"""Scores of documents by query id and document id."""

# Their lists of candidates begin with the relevant ones: an order that knows the answer.
_UNORDERED_TASKS = frozenset({"Reranking", "InstructionReranking"})
_METHODS: Mapping[type[MethodOptions], Method] = {
    E2RankOptions: Method.E2RANK,
    CosineOptions: Method.COSINE,
    VectorPrfOptions: Method.VECTOR_PRF,
    LlmListwiseOptions: Method.LLM_LISTWISE,
}
_CONCURRENT_RERANKS = 4


class MtebEncoder:
    """Embeds what a task has, through `embed_many`: MTEB's `EncoderProtocol`.

    Documents are embedded as documents with their titles, all else as queries
    with the task's instruction, or the profile's if the task has none. A text
    that is blank, which the server refuses, gets the zero vector.

    Args:
        client: Stays the caller's to close.
        model: Profile to use; empty means the server's default.

    Raises:
        E2RankError: The server is away, or has no such model.
    """

    def __init__(self, client: E2RankClient, model: str = "") -> None:
        self._client = client
        self._served = client.get_model(model)
        self.mteb_model_meta = _describe(self._served, "dense")

    def encode(
        self,
        inputs: Batches,
        *,
        task_metadata: Any,  # noqa: ANN401 - mteb.TaskMetadata
        prompt_type: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool = True,
        **_: object,
    ) -> FloatArray:
        """Return the embeddings, float32 [texts, dimension], normalised but for zero vectors."""
        is_document = prompt_type == "document"
        documents = _within_limits(_read(inputs), self._served, is_document=is_document)
        rows = [row for row, document in enumerate(documents) if not _is_blank(document)]
        vectors = np.zeros((len(documents), self._served.dimension), np.float32)
        if not rows:
            return vectors
        with tqdm(total=len(rows), desc="Embedding", disable=not show_progress_bar) as bar:
            answer = self._client.embed_many(
                [documents[row].text or "" for row in rows],
                titles=[documents[row].title for row in rows] if is_document else None,
                input_type=InputType.DOCUMENT if is_document else InputType.QUERY,
                instruction="" if is_document else _instruction(task_metadata),
                model=self._served.identity.profile,
                batch_size=batch_size,
                on_progress=lambda done, _: bar.update(done - bar.n),
            )
        vectors[rows] = answer.vectors
        return vectors

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:  # noqa: ANN401 - arrays or tensors
        """Return the cosines of all pairs, [first, second]."""
        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:  # noqa: ANN401
        """Return the cosine of each pair."""
        return pairwise_cos_sim(embeddings1, embeddings2)


class MtebReranker:
    """Reranks the candidates of each query in one call: MTEB's `SearchProtocol`.

    Not its `CrossEncoderProtocol`, which scores pairs and so hides from a
    listwise method what else is on the list. The task must bring candidates: a
    retrieval task does after `convert_to_reranking`, in the first stage's order.
    Those of MTEB's own reranking tasks begin with the relevant documents; they
    are put in the order of the model's own cosines first, for a prompt shows
    only the head of the list. Blank candidates, which the server refuses, are
    left out.

    Args:
        client: Used by several threads; stays the caller's to close.
        model: Profile to use; empty means the server's default.
        method: As for `rerank`; None means the profile's default.

    Raises:
        E2RankError: The server is away, or has no such model.
    """

    def __init__(
        self, client: E2RankClient, model: str = "", *, method: MethodChoice | None = None
    ) -> None:
        self._client = client
        self._method = method
        self._served = client.get_model(model)
        self._corpus: Any = None
        self._rows: Mapping[str, int] = {}
        self.mteb_model_meta = _describe(
            self._served,
            "cross-encoder",
            **_experiment(method or self._served.default_method),
            template=self._served.identity.template_version,
        )

    def index(self, corpus: Any, **_: object) -> None:  # noqa: ANN401 - datasets.Dataset
        """Keep the corpus; documents are sent with the queries, and embedded once."""
        self._corpus = corpus
        self._rows = {name: row for row, name in enumerate(corpus["id"])}

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,  # noqa: ANN401 - mteb.TaskMetadata
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        encode_kwargs: Mapping[str, Any] | None = None,
        **_: object,
    ) -> Ranking:
        """Return the scores of each query's `top_k` best candidates.

        Raises:
            ValueError: The task has no candidates to rerank.
            TypeError: A query is a conversation.
        """
        if top_ranked is None:
            raise ValueError(
                f"{task_metadata.name} has no candidates to rerank; retrieve some with "
                "prediction_folder=… first, and give that to task.convert_to_reranking"
            )
        rows = list(queries)
        show = (encode_kwargs or {}).get("show_progress_bar", True)

        def rerank(row: Mapping[str, Any]) -> dict[str, float]:
            return self._rerank(row, top_ranked.get(row["id"], ()), task_metadata, top_k)

        with ThreadPoolExecutor(_CONCURRENT_RERANKS) as threads:
            scores = tqdm(
                threads.map(rerank, rows), desc="Reranking", total=len(rows), disable=not show
            )
            return {row["id"]: each for row, each in zip(rows, scores, strict=True)}

    def _rerank(
        self,
        query: Mapping[str, Any],
        names: Sequence[str],
        task: Any,  # noqa: ANN401 - mteb.TaskMetadata
        top_k: int,
    ) -> dict[str, float]:
        documents = _within_limits(
            [_document(self._corpus[self._rows[name]]) for name in names],
            self._served,
            is_document=True,
        )
        candidates = [
            (name, document)
            for name, document in zip(names, documents, strict=True)
            if not _is_blank(document)
        ]

        text = _query_text(query, self._served.limits.max_query_bytes)

        def scored(method: MethodChoice | None, top_n: int) -> list[tuple[int, float]]:
            answer = self._client.rerank(
                text,
                [document for _, document in candidates],
                model=self._served.identity.profile,
                instruction=_instruction(task),
                method=method,
                top_n=top_n,
            )
            return [(result.index, result.relevance_score) for result in answer.results]

        if not candidates:
            return {}
        if task.type in _UNORDERED_TASKS:
            candidates = [candidates[at] for at, _ in scored("COSINE", len(candidates))]
        best = scored(self._method, min(top_k, len(candidates)))
        return {candidates[at][0]: score for at, score in best}


def _describe(served: Model, kind: str, **experiment: str) -> ModelMeta:
    return ModelMeta.create_empty(
        {
            "name": f"e2rank-server/{served.identity.profile}",
            "revision": served.identity.fingerprint,
            "model_type": [kind],
            "framework": ["API"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "embed_dim": served.dimension,
            "max_tokens": served.limits.max_document_tokens,
            "use_instructions": True,
            "experiment_kwargs": experiment or None,
        }
    )


def _experiment(method: MethodChoice) -> dict[str, str]:
    """Return what tells a method from others: its name, and the options that are not defaults."""
    if isinstance(method, str):
        return {"method": str(method)}
    changed = {
        each.name: str(getattr(method, each.name))
        for each in fields(method)
        if getattr(method, each.name) != each.default
    }
    return {"method": _METHODS[type(method)], **changed}


def _instruction(task: Any) -> str:  # noqa: ANN401 - mteb.TaskMetadata
    """Return what the task says that its queries are for; empty if it does not."""
    prompt = task.prompt
    if isinstance(prompt, Mapping):
        prompt = prompt.get("query")
    return prompt or ""


def _read(batches: Batches) -> list[Document]:
    documents = []
    for batch in batches:
        texts = batch.get("body") or batch["text"]
        titles = batch.get("title") or [None] * len(texts)
        documents += [
            Document(text, title=title or None) for text, title in zip(texts, titles, strict=True)
        ]
    return documents


def _document(row: Mapping[str, Any]) -> Document:
    return Document(row["text"], title=row.get("title") or None)


def _query_text(row: Mapping[str, Any], max_bytes: int) -> str:
    """Return a query as MTEB's own models read it: with an instruction of its own behind it."""
    text, instruction = row["text"], row.get("instruction")
    if not isinstance(text, str):
        raise TypeError(f"query {row['id']} is a conversation; only texts can be reranked for")
    whole = f"{text} {instruction}" if instruction else text
    return whole.encode()[:max_bytes].decode(errors="ignore")


def _is_blank(document: Document) -> bool:
    return not (document.text or "").strip()


def _within_limits(
    documents: Sequence[Document], served: Model, *, is_document: bool
) -> list[Document]:
    """Cut what is longer than the server takes; the model reads less than that anyway."""
    limits = served.limits
    max_bytes = limits.max_document_bytes if is_document else limits.max_query_bytes
    cut = [_cut(document, max_bytes) for document in documents]
    num_cut = sum(new is not old for new, old in zip(cut, documents, strict=True))
    if num_cut:
        logger.warning("%d of %d texts were cut to %d bytes", num_cut, len(documents), max_bytes)
    return cut


def _cut(document: Document, max_bytes: int) -> Document:
    text, title = (document.text or "").encode(), (document.title or "").encode()
    if len(text) + len(title) <= max_bytes:
        return document
    title = title[: max_bytes // 2]
    text = text[: max_bytes - len(title)]
    return Document(text.decode(errors="ignore"), title=title.decode(errors="ignore") or None)
