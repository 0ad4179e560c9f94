"""What is measured: each section's loads, one after the other, and its figures.

On the default profile: the scenarios rerank_warm, rerank_cold, rerank_zipf and embed with
closed arrivals, and open arrivals at shares of the rate that closed ones reach. On
SmolLM2-135M, which embeds and generates on one server: the LLM's listwise rerank beside
a warm E2RANK of the same passages, and every method by number of candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from benchmarks.figures import Figures
from benchmarks.intervals import Estimate
from benchmarks.load.locust_process import Load, run_locust
from benchmarks.load.parameters import Arrivals, LoadParameters, Method, Scenario
from benchmarks.load.quantiles import quantile, ratio
from benchmarks.load.recording import Recording, merged
from benchmarks.load.summaries import conditions_of, latency_figures, scenario_figures

BACKBONE = "smollm2-135m"
SCENARIOS_ON_DEFAULT = ("rerank_warm", "rerank_cold", "rerank_zipf", "embed", "offered_load")
SCENARIOS_ON_BACKBONE = ("llm_listwise", "candidates")

EMBED_TEXTS = 32
PERCENT_OF_CAPACITY = (30, 60, 80, 95)
OPEN_USERS = 64
CANDIDATES = (10, 20, 50, 100)
_USUAL = {"seconds": 10.0, "min_requests": 100, "max_seconds": 45.0}
_SHORT_SECONDS = 2.0
_MIN_WARM_REQUESTS_PER_ROUND = 3
_LLM_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Series:
    """A line of latency against candidates, and at least how many requests a point has."""

    scenario: Scenario
    method: Method
    min_requests: int
    candidates: tuple[int, ...] = CANDIDATES


SERIES = {
    "COSINE": Series(Scenario.RERANK_WARM, Method.COSINE, 10),
    "VECTOR_PRF": Series(Scenario.RERANK_WARM, Method.VECTOR_PRF, 10),
    "E2RANK_warm": Series(Scenario.RERANK_WARM, Method.E2RANK, 3),
    "E2RANK_cold": Series(Scenario.RERANK_COLD, Method.E2RANK, 2),
    # 100 take a minute on two cores; llm_listwise measures them.
    "LLM_LISTWISE": Series(Scenario.LLM_LISTWISE, Method.LLM_LISTWISE, 1, (10, 20, 50)),
}


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How large the loads are. Points by number of candidates have their own numbers."""

    clients: int
    candidates: int
    document_words: int
    llm_requests: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures that were measured together, and under which conditions."""

    name: str
    conditions: Mapping[str, Any]
    figures: Figures


Advance: TypeAlias = Callable[[], None]
Run: TypeAlias = Callable[[str, Load], Recording]


@dataclass(slots=True)
class LoadSections:
    """Measures one section after the other on a running server, which has had no other load."""

    address: str
    plan: LoadPlan
    advance: Advance
    """Called after every load; `num_loads` says how many there are."""
    run_load: Run = run_locust
    _num_seeds: int = field(default=0)

    def measure(self, part: str) -> Measured:
        """Measure one of `parts_of` a scenario.

        Raises:
            LoadRunError: Locust failed, or did not end in time.
            RecordingError: No request of a load ended.
        """
        match part:
            case "offered_load":
                return self._offered_load()
            case "llm_listwise":
                return self._llm_listwise()
            case _ if part in SERIES:
                return self._series(part)
        return self._scenario(Scenario(part))

    def _scenario(self, scenario: Scenario) -> Measured:
        own: dict[str, Any] = {}
        if scenario is Scenario.EMBED:
            own = {"candidates": EMBED_TEXTS}
        elif scenario is Scenario.RERANK_ZIPF:
            own = {"namespace": "zipf"}  # where nothing is cached: the hit rate is of a start
        load = self._load(scenario, **_USUAL, **own)
        recording = self._run(load)
        name = scenario.value
        return Measured(name, conditions_of(load, recording), scenario_figures(name, recording))

    def _offered_load(self) -> Measured:
        closed = self._run(self._load(Scenario.RERANK_WARM, seconds=_USUAL["seconds"]))
        capacity = closed.requests_per_second
        figures: dict[str, float | Estimate] = {"offered_load.capacity_rps": capacity}
        conditions: dict[str, Any] = {"capacity": f"{self.plan.clients} closed clients"}
        for percent in PERCENT_OF_CAPACITY:
            load = self._load(
                Scenario.RERANK_WARM,
                arrivals=Arrivals.OPEN,
                rate=round(capacity * percent / 100, 3),
                **_USUAL,
            )
            load = replace(load, users=OPEN_USERS)
            recording = self._run(load)
            name = f"offered_load.{percent}_percent"
            figures |= latency_figures(name, recording)
            figures[f"{name}.rps"] = recording.requests_per_second
            figures[f"{name}.error_rate"] = recording.error_rate
            conditions[f"{percent}_percent"] = conditions_of(load, recording)
        return Measured("offered_load", conditions, figures)

    def _llm_listwise(self) -> Measured:
        """Measure the LLM and E2RANK in turns, one client each, on the same requests."""
        sides: dict[Scenario, list[Recording]] = {
            Scenario.RERANK_WARM: [],
            Scenario.LLM_LISTWISE: [],
        }
        loads: dict[Scenario, Load] = {}
        for _ in range(self.plan.llm_requests):
            seed = self._new_seed()
            for scenario, recordings in sides.items():
                is_llm = scenario is Scenario.LLM_LISTWISE
                load = self._load(
                    scenario,
                    seed=seed,
                    min_requests=1 if is_llm else _MIN_WARM_REQUESTS_PER_ROUND,
                    timeout_seconds=_LLM_TIMEOUT_SECONDS,
                )
                loads[scenario] = replace(load, users=1)
                recordings.append(self._run(loads[scenario]))
        warm, llm = (merged(recordings) for recordings in sides.values())
        return Measured(
            "llm_listwise",
            {
                "llm_listwise": conditions_of(loads[Scenario.LLM_LISTWISE], llm),
                "smollm2.rerank_warm": conditions_of(loads[Scenario.RERANK_WARM], warm),
                "ratio": "of the two above: one backbone that embeds and generates, the same "
                "passages and candidates, one client, in turns; rerank_warm without a prefix is "
                "the default profile's. Of few requests a p95 is the slowest: see iterations",
            },
            {
                **scenario_figures("llm_listwise", llm),
                **scenario_figures("smollm2.rerank_warm", warm),
                **_ratios(llm, warm),
                **_point("LLM_LISTWISE", self.plan.candidates, llm),
            },
        )

    def _series(self, name: str) -> Measured:
        series = SERIES[name]
        conditions: dict[str, Any] = {}
        figures: dict[str, float | Estimate] = {}
        for count in series.candidates:
            is_fast = series.method in (Method.COSINE, Method.VECTOR_PRF)
            load = self._load(
                series.scenario,
                method=series.method.value,
                candidates=count,
                seconds=_SHORT_SECONDS if is_fast else 0.0,
                min_requests=series.min_requests,
                timeout_seconds=_LLM_TIMEOUT_SECONDS,
            )
            load = replace(load, users=1)
            recording = self._run(load)
            figures |= _point(name, count, recording)
            conditions[str(count)] = conditions_of(load, recording)
        return Measured(f"candidates.{name}", conditions, figures)

    def _load(self, scenario: Scenario, **values: Any) -> Load:  # noqa: ANN401 - LoadParameters' own
        sizes = {"candidates": self.plan.candidates, "document_words": self.plan.document_words}
        seed = {} if "seed" in values else {"seed": self._new_seed()}
        parameters = LoadParameters(scenario=scenario, **{**sizes, **seed, **values})
        return Load(parameters, self.plan.clients)

    def _new_seed(self) -> int:
        """Return one that no load on this server had: its new texts are not cached."""
        self._num_seeds += 1
        return self._num_seeds

    def _run(self, load: Load) -> Recording:
        recording = self.run_load(self.address, load)
        self.advance()
        return recording


def parts_of(scenario: str) -> tuple[str, ...]:
    """Return what a scenario of the command line is measured and saved in."""
    return tuple(SERIES) if scenario == "candidates" else (scenario,)


def num_loads(part: str, plan: LoadPlan) -> int:
    """Return how many loads a part has."""
    match part:
        case "offered_load":
            return 1 + len(PERCENT_OF_CAPACITY)
        case "llm_listwise":
            return 2 * plan.llm_requests
        case _ if part in SERIES:
            return len(SERIES[part].candidates)
    return 1


def _point(series: str, candidates: int, recording: Recording) -> dict[str, float | Estimate]:
    seconds = recording.answered_seconds
    name = f"candidates.{series}.{candidates}.p50_seconds"
    return {name: quantile(seconds, 0.5)} if seconds else {}


def _ratios(llm: Recording, warm: Recording) -> dict[str, float | Estimate]:
    above, below = llm.answered_seconds, warm.answered_seconds
    if not above or not below:
        return {}
    return {
        f"llm_listwise_over_rerank_warm_{name}": ratio(
            quantile(above, share), quantile(below, share)
        )
        for name, share in (("p50", 0.5), ("p95", 0.95))
    }
