"""What the experiment takes down of each method."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.latency.bounds import Pairs


@dataclass(slots=True)
class E2RankSamples:
    """Seconds an iteration, and tokens."""

    warm: list[float] = field(default_factory=list)
    bare_prompt: list[float] = field(default_factory=list)
    prompt_pass: list[float] = field(default_factory=list)
    """The server's own measure, of warm reranks."""
    cold: list[float] = field(default_factory=list)
    bare_documents: list[float] = field(default_factory=list)
    bare_cold: list[float] = field(default_factory=list)
    """Documents and prompt, one after the other."""
    documents: list[float] = field(default_factory=list)
    """The server's own measure; a prompt pass lies within it."""
    prompt_tokens: list[float] = field(default_factory=list)
    document_tokens: list[float] = field(default_factory=list)

    @property
    def warm_pairs(self) -> Pairs:
        """Warm reranks beside the prompt's bare passes."""
        return Pairs(self.warm, self.bare_prompt)

    @property
    def cold_pairs(self) -> Pairs:
        """Cold reranks beside the bare passes of documents and prompt."""
        return Pairs(self.cold, self.bare_cold)


@dataclass(slots=True)
class LlmSamples:
    """Seconds a query and a bare window, and tokens a window."""

    queries: list[float] = field(default_factory=list)
    bare_queries: list[float] = field(default_factory=list)
    """As many bare windows: those before and after the query stand for all of them."""
    bare_windows: list[float] = field(default_factory=list)
    window_prompt_tokens: list[float] = field(default_factory=list)
    window_answer_tokens: list[float] = field(default_factory=list)
    idle_engine_cpu_share: list[float] = field(default_factory=list)
    """Processor time a second of the engine that had nothing to do meanwhile."""
    outputs: dict[str, int] = field(default_factory=dict)

    @property
    def pairs(self) -> Pairs:
        """Queries beside their bare windows."""
        return Pairs(self.queries, self.bare_queries)
