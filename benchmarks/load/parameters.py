"""What a load test may be told: its parameters, their flags, and their checks."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Protocol

MAX_CANDIDATES = 10_000
MAX_DOCUMENT_WORDS = 2000
MAX_PROMPT_DOCUMENTS = 1000
MAX_DOCUMENTS = 10_000_000
MAX_RATE = 100_000.0
MAX_SECONDS = 86_400.0
MAX_REQUESTS = 10_000_000
MIN_ZIPF_DOCUMENTS_PER_CANDIDATE = 10
"""A request's candidates differ, and drawing as many from a smaller set is no longer Zipf's law."""

ZIPF_DOCUMENTS = 100_000
WARM_DOCUMENTS_PER_CANDIDATE = 2


class Scenario(StrEnum):
    """What is asked of the server."""

    RERANK_WARM = "rerank_warm"
    RERANK_COLD = "rerank_cold"
    RERANK_ZIPF = "rerank_zipf"
    EMBED = "embed"
    LLM_LISTWISE = "llm_listwise"


class Arrivals(StrEnum):
    """Who decides when a request is due: the answer before it, or chance."""

    CLOSED = "closed"
    OPEN = "open"


class Method(StrEnum):
    """How candidates are ranked."""

    E2RANK = "E2RANK"
    COSINE = "COSINE"
    VECTOR_PRF = "VECTOR_PRF"
    LLM_LISTWISE = "LLM_LISTWISE"


class ParameterError(ValueError):
    """Parameters are not as their help describes; the message names each, its value and limit."""


@dataclass(frozen=True, slots=True)
class LoadParameters:
    """What is sent, and when. The flags' help explains each; 0 and "" stand for a default.

    Raises:
        ParameterError: They do not fit; all breaches are named.
    """

    scenario: Scenario = Scenario.RERANK_WARM
    method: str = ""
    candidates: int = 100
    document_words: int = 100
    prompt_documents: int = 0
    documents: int = 0
    model: str = ""
    namespace: str = ""
    seed: int = 0
    arrivals: Arrivals = Arrivals.CLOSED
    rate: float = 10.0
    seconds: float = 0.0
    min_requests: int = 0
    max_seconds: float = 0.0
    timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        if breaches := [*self._out_of_range(), *self._contradictions()]:
            raise ParameterError("; ".join(breaches))

    @property
    def ranks_with(self) -> Method:
        """The method of the scenario's reranks."""
        if self.method:
            return Method(self.method)
        is_llm = self.scenario is Scenario.LLM_LISTWISE
        return Method.LLM_LISTWISE if is_llm else Method.E2RANK

    @property
    def num_documents(self) -> int:
        """How many documents the scenario's fixed set has."""
        if self.documents:
            return self.documents
        if self.scenario is Scenario.RERANK_ZIPF:
            return max(ZIPF_DOCUMENTS, MIN_ZIPF_DOCUMENTS_PER_CANDIDATE * self.candidates)
        return WARM_DOCUMENTS_PER_CANDIDATE * self.candidates

    def is_over(self, elapsed_seconds: float, num_requests: int) -> bool:
        """Return whether a run has lasted, and had requests, as it is to."""
        if not self.seconds and not self.min_requests:
            return False
        if self.max_seconds and elapsed_seconds >= self.max_seconds and num_requests:
            return True
        return elapsed_seconds >= self.seconds and num_requests >= self.min_requests

    def _out_of_range(self) -> Iterator[str]:
        for name, low, high in (
            ("candidates", 1, MAX_CANDIDATES),
            ("document_words", 1, MAX_DOCUMENT_WORDS),
            ("prompt_documents", 0, MAX_PROMPT_DOCUMENTS),
            ("documents", 0, MAX_DOCUMENTS),
            ("seed", 0, 2**32 - 1),
            ("seconds", 0, MAX_SECONDS),
            ("min_requests", 0, MAX_REQUESTS),
            ("max_seconds", 0, MAX_SECONDS),
        ):
            if not low <= (value := getattr(self, name)) <= high:
                yield f"{flag_of(name)} is {value:g}, not within {low}..{high:g}"
        for name, most in (("rate", MAX_RATE), ("timeout_seconds", MAX_SECONDS)):
            if not 0 < (value := getattr(self, name)) <= most:
                yield f"{flag_of(name)} is {value:g}, not above 0 and at most {most:g}"

    def _contradictions(self) -> Iterator[str]:
        is_llm = self.scenario is Scenario.LLM_LISTWISE
        if self.method and self.method not in list(Method):
            yield f"--method is {self.method!r}, not one of {', '.join(Method)}"
        elif is_llm and self.method not in ("", Method.LLM_LISTWISE):
            yield f"--method is {self.method}, but the scenario {self.scenario} is LLM_LISTWISE's"
        elif self.prompt_documents and self.ranks_with is not Method.E2RANK:
            yield (
                f"--prompt-documents is {self.prompt_documents}, but only E2RANK has them, "
                f"not {self.ranks_with}"
            )
        if self.method and self.scenario is Scenario.EMBED:
            yield f"--method is {self.method}, but the scenario embed ranks nothing"
        per_candidate = 1
        if self.scenario is Scenario.RERANK_ZIPF:
            per_candidate = MIN_ZIPF_DOCUMENTS_PER_CANDIDATE
        if self.documents and self.documents < per_candidate * self.candidates:
            yield (
                f"--documents is {self.documents}, but {self.scenario} needs at least "
                f"{per_candidate} for each of the {self.candidates} candidates of a request"
            )


def flag_of(name: str) -> str:
    """Return the flag that sets a parameter."""
    return f"--{name.replace('_', '-')}"


class _Parser(Protocol):
    def add_argument(self, *names: str, **options: Any) -> object: ...  # noqa: ANN401 - argparse's own


def add_arguments(parser: _Parser) -> None:
    """Add the flags of `LoadParameters` to argparse's parser or Locust's, which is one, too."""
    for name, options in _FLAGS.items():
        default = getattr(_DEFAULTS, name)
        help_text = options["help"] + (f" (default: {default})" if default else "")
        parser.add_argument(flag_of(name), default=default, **{**options, "help": help_text})


def parameters_of(options: argparse.Namespace) -> LoadParameters:
    """Read what the flags, or Locust's web page, set.

    Raises:
        ParameterError: It does not fit.
    """
    values = {each.name: getattr(options, each.name) for each in fields(LoadParameters)}
    for name, kind in (("scenario", Scenario), ("arrivals", Arrivals)):
        if values[name] not in list(kind):
            raise ParameterError(f"--{name} is {values[name]!r}, not one of {', '.join(kind)}")
        values[name] = kind(values[name])
    return LoadParameters(**values)


def flags_of(parameters: LoadParameters) -> list[str]:
    """Return the flags that set these parameters, those with their defaults left out."""
    flags = []
    for each in fields(LoadParameters):
        value = getattr(parameters, each.name)
        if value != getattr(_DEFAULTS, each.name):
            flags.append(f"{flag_of(each.name)}={value}")
    return flags


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


_DEFAULTS = LoadParameters()
_FLAGS: dict[str, dict[str, Any]] = {
    "scenario": {
        "choices": list(Scenario),
        "help": "rerank_warm: candidates of a fixed set that is cached; rerank_cold: every text "
        "is new; rerank_zipf: candidates of a big set by Zipf's law; embed: new texts; "
        "llm_listwise: as rerank_warm, ranked by the server's LLM",
    },
    "method": {
        "choices": ["", *Method],
        "help": "how candidates are ranked; empty is E2RANK, and LLM_LISTWISE for llm_listwise",
    },
    "candidates": {
        "type": _whole,
        "metavar": "N",
        "help": f"documents of a request, texts of an embed, 1 to {MAX_CANDIDATES}",
    },
    "document_words": {
        "type": _whole,
        "metavar": "N",
        "help": f"words of a document, 1 to {MAX_DOCUMENT_WORDS}",
    },
    "prompt_documents": {
        "type": _whole,
        "metavar": "N",
        "help": f"documents in E2RANK's prompt, up to {MAX_PROMPT_DOCUMENTS}; 0 is the profile's",
    },
    "documents": {
        "type": _whole,
        "metavar": "N",
        "help": "size of the fixed set; 0 is twice the candidates, and "
        f"{ZIPF_DOCUMENTS} for rerank_zipf",
    },
    "model": {"metavar": "PROFILE", "help": "profile to ask for; empty is the server's default"},
    "namespace": {
        "metavar": "NAME",
        "help": "namespace of the embeddings; a new one finds none cached",
    },
    "seed": {
        "type": _whole,
        "metavar": "N",
        "help": "what queries, candidates, new texts and open arrivals are drawn from",
    },
    "arrivals": {
        "choices": list(Arrivals),
        "help": "closed: each user sends when it has its answer; open: requests are due by a "
        "Poisson process, whatever the answers do, and the users are how many can be in progress",
    },
    "rate": {
        "type": _number,
        "metavar": "PER_SECOND",
        "help": "of open arrivals, all users together",
    },
    "seconds": {
        "type": _number,
        "metavar": "S",
        "help": "how long to measure after the warm-up; 0 is until --run-time or Ctrl-C",
    },
    "min_requests": {
        "type": _whole,
        "metavar": "N",
        "help": "measure beyond --seconds until so many have ended",
    },
    "max_seconds": {
        "type": _number,
        "metavar": "S",
        "help": "end then even with fewer than --min-requests, if one has ended; 0 is never",
    },
    "timeout_seconds": {"type": _number, "metavar": "S", "help": "deadline of a request"},
}
