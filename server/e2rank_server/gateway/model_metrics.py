"""Metrics that are read when they are asked for: what models, caches and the gate know anyway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from e2rank_server.embedding_cache.circuit_breaker import BreakerState
from e2rank_server.embedding_cache.protocol import SecondTierStatistics
from e2rank_server.engine.model import ServedModel
from e2rank_server.gateway.health import HealthServicer, service_of_model
from e2rank_server.gateway.interceptors import GateInterceptor

_BREAKER_STATES: Mapping[BreakerState, str] = {
    BreakerState.CLOSED: "available",
    BreakerState.OPEN: "away",
    BreakerState.HALF_OPEN: "probing",
}


class ModelMetrics(Collector):
    """Collects them; to be asked in the gateway's event loop, where nothing changes meanwhile."""

    def __init__(
        self, models: Sequence[ServedModel], health: HealthServicer, gate: GateInterceptor
    ) -> None:
        self._models = models
        self._health = health
        self._gate = gate

    def collect(self) -> Iterable[Metric]:
        """Yield every metric, with a sample a model."""
        yield GaugeMetricFamily(
            "e2rank_requests_in_progress",
            "Calls that hold a place of --max-concurrent-requests.",
            self._gate.in_progress,
        )
        yield from _descriptions(self._models, self._health)
        yield from _caches(self._models)
        second_tiers = {
            model.description.profile: statistics
            for model in self._models
            if (statistics := model.second_tier_statistics) is not None
        }
        yield from _reads(second_tiers)
        yield from _writes(second_tiers)


def _descriptions(models: Sequence[ServedModel], health: HealthServicer) -> Iterator[Metric]:
    info = _gauge(
        "e2rank_model_info",
        "A model that is served; always 1.",
        *("revision", "fingerprint", "tokenizer_backend", "embedder_backend", "compute_dtype"),
    )
    serving = _gauge("e2rank_model_serving", "Whether a model's backends answer.")
    work = _gauge("e2rank_work_tokens", "Estimated tokens of work in the second gate.", "state")
    for model in models:
        about, load = model.description, model.load
        backends = (about.tokenizer_backend, about.embedder_backend, about.compute_dtype)
        info.add_metric([about.profile, about.revision, about.fingerprint, *backends], 1)
        is_serving = health.is_serving(service_of_model(about.profile))
        serving.add_metric([about.profile], is_serving)
        work.add_metric([about.profile, "running"], load.running_tokens)
        work.add_metric([about.profile, "waiting"], load.waiting_tokens)
    return iter((info, serving, work))


def _caches(models: Sequence[ServedModel]) -> Iterator[Metric]:
    entries = _gauge("e2rank_cache_entries", "Embeddings in memory.")
    resident = _gauge("e2rank_cache_resident_bytes", "Memory that they take.")
    limit = _gauge("e2rank_cache_max_bytes", "Memory that they may take.")
    keys = _counter("e2rank_cache_keys_total", "Documents looked up in a tier.", "tier", "outcome")
    evictions = _counter("e2rank_cache_evictions_total", "Embeddings that gave way in memory.")
    rejected = _counter("e2rank_cache_rejected_total", "Stored values that were not believed.")
    for model in models:
        profile, cache = model.description.profile, model.cache_statistics
        second = model.second_tier_statistics
        entries.add_metric([profile], cache.entries)
        resident.add_metric([profile], cache.resident_bytes)
        limit.add_metric([profile], cache.max_bytes)
        evictions.add_metric([profile], cache.evictions)
        rejected.add_metric([profile], cache.rejected)
        # The cache's misses fall when the second tier answers; a tier's own never do.
        found_behind = second.hits if second else 0
        keys.add_metric([profile, "MEMORY", "hit"], cache.hits - found_behind)
        keys.add_metric([profile, "MEMORY", "miss"], cache.misses + found_behind)
        if second:
            keys.add_metric([profile, second.place.name, "hit"], second.hits)
            keys.add_metric([profile, second.place.name, "miss"], second.misses)
    return iter((entries, resident, limit, keys, evictions, rejected))


def _reads(tiers: Mapping[str, SecondTierStatistics]) -> Iterator[Metric]:
    state = _gauge(
        "e2rank_second_tier_state",
        "1 for the state that calls to the second tier are in.",
        *("tier", "operation", "state"),
    )
    failures = _counter(
        "e2rank_second_tier_failures_total", "Look-ups that went on without it.", "tier", "reason"
    )
    for profile, tier in tiers.items():
        place = tier.place.name
        for operation, breaker in (("read", tier.breaker), ("write", tier.writes.breaker)):
            for each, name in _BREAKER_STATES.items():
                state.add_metric([profile, place, operation, name], breaker is each)
        failures.add_metric([profile, place, "timeout"], tier.timeouts)
        failures.add_metric([profile, place, "error"], tier.errors)
        failures.add_metric([profile, place, "skipped"], tier.skipped)
    return iter((state, failures))


def _writes(tiers: Mapping[str, SecondTierStatistics]) -> Iterator[Metric]:
    written = _counter(
        "e2rank_second_tier_writes_total", "Embeddings for the second tier.", "tier", "outcome"
    )
    errors = _counter(
        "e2rank_second_tier_write_errors_total", "Calls to write that failed.", "tier"
    )
    waiting = _gauge("e2rank_second_tier_waiting", "Embeddings that wait to be written.", "tier")
    waiting_bytes = _gauge("e2rank_second_tier_waiting_bytes", "Memory that they take.", "tier")
    for profile, tier in tiers.items():
        labels = [profile, tier.place.name]
        written.add_metric([*labels, "written"], tier.writes.written)
        written.add_metric([*labels, "dropped"], tier.writes.dropped)
        errors.add_metric(labels, tier.writes.errors)
        waiting.add_metric(labels, tier.writes.waiting)
        waiting_bytes.add_metric(labels, tier.writes.waiting_bytes)
    return iter((written, errors, waiting, waiting_bytes))


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, labels=["model", *labels])


def _counter(name: str, documentation: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, documentation, labels=["model", *labels])
