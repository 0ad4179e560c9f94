"""What the paper measured: arXiv:2510.22733, tables 12 and 13 and section 4.2, on one A100."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PaperRow:
    """Seconds a query: 100 candidates of some 350 tokens, 20 in the prompt, mean of 50 queries."""

    size: str
    documents: float
    prompt_and_score: float
    llm: float

    @property
    def total(self) -> float:
        """With nothing cached."""
        return self.documents + self.prompt_and_score

    @property
    def cold_speedup(self) -> float:
        """As the paper has it."""
        return self.llm / self.total

    @property
    def warm_speedup(self) -> float:
        """What its seconds come to if the documents' embeddings are cached."""
        return self.llm / self.prompt_and_score


PAPER = (
    PaperRow("0.6B", 0.50, 0.13, 4.58),
    PaperRow("4B", 1.74, 0.43, 11.25),
    PaperRow("8B", 2.76, 0.64, 16.93),
)
