"""What is measured: a backbone, passages of a length, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from benchmarks.overhead.texts import Texts
from benchmarks.qwen3 import QWEN3_0_6B

PROMPT_DOCUMENTS = 20
"""Of the paper, in E2RANK's prompt and in an LLM's window (arXiv:2510.22733, section 4.2)."""
WINDOW_STRIDE = 10
CANDIDATES = 100


@dataclass(frozen=True, slots=True)
class Shape:
    """One row of the experiment.

    `made_of` is the configuration of a model that is made with random weights;
    without it the model is SmolLM2-135M. Passages have `passage_words` words, or
    as many of them as make `passage_tokens`.
    """

    name: str
    title: str
    max_model_tokens: int
    passage_words: int
    queries: int
    warm_iterations: int
    cold_iterations: int
    windows_between: int
    """Bare windows before the first LLM query, and after each."""
    expected_minutes: int
    """On two cores without AVX-512."""
    passage_tokens: int | None = None
    made_of: Mapping[str, Any] | None = None

    def passages(self, number: int, texts: Texts, tokenizer: Tokenizer) -> list[str]:
        """Return new passages of the shape's length."""
        passages = [texts.passage(self.passage_words) for _ in range(number)]
        if self.passage_tokens is None:
            return passages
        return [first_tokens(each, self.passage_tokens, tokenizer) for each in passages]


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            name="smollm2-100w",
            title="SmolLM2-135M, 100 words",
            max_model_tokens=8192,
            passage_words=100,
            queries=2,
            warm_iterations=6,
            cold_iterations=2,
            windows_between=2,
            expected_minutes=10,
        ),
        Shape(
            name="qwen3-0.6b-100w",
            title="Qwen3-0.6B's shape (random), 100 words",
            # Windows have 2,830; more would be memory for key-value caches, and nothing else.
            max_model_tokens=3072,
            passage_words=100,
            queries=1,
            warm_iterations=2,
            cold_iterations=1,
            windows_between=2,
            expected_minutes=20,
            made_of=QWEN3_0_6B,
        ),
        Shape(
            name="smollm2-350t",
            title="SmolLM2-135M, 350 tokens",
            max_model_tokens=8192,
            passage_words=350,
            queries=1,
            warm_iterations=3,
            cold_iterations=1,
            windows_between=2,
            expected_minutes=15,
            passage_tokens=350,
        ),
    )
}


def first_tokens(text: str, number: int, tokenizer: Tokenizer) -> str:
    """Return the first words of a text, at most `number` tokens of them and less only by a word."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    if len(encoding.ids) <= number:
        return text
    _, end = encoding.offsets[number - 1]
    # Up to a space: half a word may be other tokens than the whole one begins with.
    return text[:end] if text[end] == " " else text[:end].rpartition(" ")[0]
