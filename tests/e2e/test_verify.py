"""`e2rank verify` on SmolLM2: scores served through the whole stack against transformers'."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from e2rank_client import E2RankClient
from e2rank_client.verify import Golden, compare, read_golden, served_scores
from e2rank_server.model_folder import prepare_model_folder
from e2rank_server.profiles.loading import load_profile
from e2rank_server.settings import read_settings

pytestmark = pytest.mark.e2e

PROFILE = "smollm2-135m"
EXAMPLE = read_golden("e2rank-0.6b")  # its texts; its scores are another model's
# The README's own two implementations differ by so much, and bfloat16 has 8 bits.
TOLERANCES = {"float32": 0.003, "bfloat16": 0.01}


def listwise_prompt(query: str, documents: Sequence[str]) -> str:
    """Write out the profile's listwise prompt, by hand rather than by the code under test."""
    shown = "\n".join(f"[{number}] {text}" for number, text in enumerate(documents, start=1))
    return (
        "<|im_start|>user\n"
        "Given a web search query and some relevant documents, rerank the documents "
        f"that answer the query:\nDocuments:\n{shown}\nSearch Query: {query}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def transformers_scores() -> list[list[float]]:
    """Compute cosines of listwise prompts with documents in float32, last token pooled."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The files that the server made from the GGUF package: making them again takes 20 s.
    models_directory = read_settings([], os.environ).data_directory / "models"
    folder = prepare_model_folder(load_profile(PROFILE), models_directory).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def embed(text: str) -> torch.Tensor:
        token_ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        with torch.inference_mode():
            last = model.model(token_ids).last_hidden_state[0, -1]
        return torch.nn.functional.normalize(last, dim=0)

    documents = torch.stack([embed(f"{text}<|endoftext|>") for text in EXAMPLE.documents])
    prompts = [embed(listwise_prompt(query, EXAMPLE.documents)) for query in EXAMPLE.queries]
    return [(documents @ prompt).tolist() for prompt in prompts]


def test_the_served_scores_are_those_that_transformers_computes(server_address: str) -> None:
    with E2RankClient(server_address) as client:
        dtype = client.get_model(PROFILE).compute_dtype
        golden = Golden(
            source="transformers, float32",
            listwise_template="",
            queries=EXAMPLE.queries,
            documents=EXAMPLE.documents,
            scores=tuple(tuple(row) for row in transformers_scores()),
            tolerance=TOLERANCES[dtype],
        )
        comparisons = compare(golden, served_scores(client, golden, model=PROFILE))
    assert len(comparisons) == 4
    assert [c for c in comparisons if not c.agrees] == []


def test_scores_of_another_model_do_not_pass(server_address: str) -> None:
    with E2RankClient(server_address) as client:
        served = served_scores(client, EXAMPLE, model=PROFILE)
    assert not all(comparison.agrees for comparison in compare(EXAMPLE, served))
