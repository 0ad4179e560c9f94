"""Prometheus metrics: what requests did, and the endpoint that tells it.

docs/metrics.md lists every metric. Labels have few values, all of them the
server's own: no namespace, no id, nothing that a caller can choose freely.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import platform
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from operator import attrgetter

from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from e2rank_server import __version__
from e2rank_server.errors import ConfigurationError
from e2rank_server.types import (
    EmbedOutcome,
    LlmListwiseReport,
    LlmOutputCounts,
    Method,
    RerankOutcome,
    Timings,
)

logger = logging.getLogger(__name__)

_REQUEST_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
_STAGE_SECONDS = (0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0, 20.0, 60.0)
_STAGES = [
    field.name.removesuffix("_seconds") for field in fields(Timings) if field.name[:6] != "total_"
]
_stage_seconds = attrgetter(*(f"{stage}_seconds" for stage in _STAGES))
_LLM_OUTCOMES = [field.name for field in fields(LlmOutputCounts)]
_llm_counts = attrgetter(*_LLM_OUTCOMES)
_MAX_PORT = 65535


class Telemetry:
    """Counts and times requests as they end, in `registry`, in which others may collect, too.

    Recording a rerank takes some 7 µs, however many documents it has. The
    labels' children are kept, because to find one costs more than to count.
    Record and collect in one thread.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        build = Gauge(
            "e2rank_build_info", "What runs; always 1.", ["version", "python"], registry=registry
        )
        build.labels(__version__, platform.python_version()).set(1)
        self._calls = _CallMetrics(registry)
        models = _ModelMetrics(registry)
        # Few of each: methods that are served times codes, profiles, profiles times templates.
        self._call = functools.cache(self._calls.of)
        self._model = functools.cache(models.of)
        self._llm = functools.cache(models.of_llm)

    def record_call(self, method: str, code: str, seconds: float) -> None:
        """Count a call that ended: `method` is its full name, of a method that exists."""
        call = self._call(method, code)
        call.requests.inc()
        call.seconds.observe(seconds)

    def record_rerank(self, profile: str, outcome: RerankOutcome) -> None:
        """Count what an answered Rerank did."""
        model, usage = self._model(profile), outcome.usage
        model.reranks[outcome.method].inc()
        for stage, seconds in zip(model.stages, _stage_seconds(outcome.timings), strict=True):
            if seconds:  # of a stage that did not take place there is nothing to say
                stage.observe(seconds)
        _add(model.documents_from_caller, usage.documents_from_caller)
        _add(model.documents_cached, usage.documents_cached)
        _add(model.documents_embedded, usage.documents_embedded)
        _add(model.tokens, usage.prompt_tokens + usage.document_tokens)
        if outcome.llm_listwise is not None:
            self._record_llm(profile, outcome.llm_listwise)

    def record_embed(self, profile: str, outcome: EmbedOutcome) -> None:
        """Count what an answered Embed did."""
        model, usage = self._model(profile), outcome.usage
        _add(model.inputs_cached, usage.inputs_cached)
        _add(model.inputs_embedded, usage.inputs_embedded)
        _add(model.tokens, usage.tokens)

    def _record_llm(self, profile: str, report: LlmListwiseReport) -> None:
        llm = self._llm(profile, report.template)
        for outputs, count in zip(llm.outputs, _llm_counts(report.outputs), strict=True):
            _add(outputs, count)
        _add(llm.prompt_tokens, report.prompt_tokens)
        _add(llm.generated_tokens, report.generated_tokens)


def _add(counter: Counter, amount: int) -> None:
    if amount:
        counter.inc(amount)


class _Durations:
    """A histogram of seconds under one set of labels."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum_seconds += seconds

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        bounds = [*map(str, self._bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        family.add_metric(labels, buckets, self._sum_seconds)


class _DurationsByLabels(Collector):
    """Histograms for use in one thread.

    prometheus_client's own lock and search bucket by bucket, which takes five times
    as long, and a rerank has eight stages.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._bounds = bounds
        self._children: dict[tuple[str, ...], _Durations] = {}
        registry.register(self)

    def labels(self, *values: str) -> _Durations:
        return self._children.setdefault(values, _Durations(self._bounds))

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, durations in self._children.items():
            durations.add_to(family, values)
        yield family


@dataclass(frozen=True, slots=True)
class _OfCall:
    requests: Counter
    seconds: _Durations


class _CallMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["service", "method"]
        self._requests = Counter(
            "e2rank_requests_total",
            "Unary calls that ended, by gRPC code.",
            [*labels, "code"],
            registry=registry,
        )
        self._seconds = _DurationsByLabels(
            "e2rank_request_seconds",
            "How long unary calls took in the server, however they ended.",
            labels,
            bounds=_REQUEST_SECONDS,
            registry=registry,
        )

    def of(self, full_method: str, code: str) -> _OfCall:
        _, service, method = full_method.split("/")
        return _OfCall(
            self._requests.labels(service, method, code), self._seconds.labels(service, method)
        )


@dataclass(frozen=True, slots=True)
class _OfModel:
    """`stages` are in the order of `_STAGES`."""

    reranks: Mapping[Method, Counter]
    stages: Sequence[_Durations]
    documents_from_caller: Counter
    documents_cached: Counter
    documents_embedded: Counter
    inputs_cached: Counter
    inputs_embedded: Counter
    tokens: Counter


@dataclass(frozen=True, slots=True)
class _OfLlm:
    """`outputs` are in the order of `_LLM_OUTCOMES`."""

    outputs: Sequence[Counter]
    prompt_tokens: Counter
    generated_tokens: Counter


class _ModelMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(name, documentation, ["model", *labels], registry=registry)

        self._reranks = counter("e2rank_reranks_total", "Reranks that were answered.", "method")
        self._stages = _DurationsByLabels(
            "e2rank_rerank_stage_seconds",
            "How long stages of answered reranks took; they overlap.",
            ["model", "stage"],
            bounds=_STAGE_SECONDS,
            registry=registry,
        )
        self._documents = counter(
            "e2rank_rerank_documents_total", "Candidates, by where the vector came from.", "source"
        )
        self._inputs = counter(
            "e2rank_embed_inputs_total", "Texts of Embed, by where the vector came from.", "source"
        )
        self._tokens = counter("e2rank_tokens_total", "Tokens that the embedder was given.")
        self._outputs = counter(
            "e2rank_llm_outputs_total",
            "What an LLM wrote or failed to write, by what was wrong.",
            "template",
            "outcome",
        )
        self._llm_tokens = counter(
            "e2rank_llm_tokens_total", "Tokens that an LLM read and wrote.", "template", "kind"
        )

    def of(self, profile: str) -> _OfModel:
        return _OfModel(
            reranks={method: self._reranks.labels(profile, method) for method in Method},
            stages=[self._stages.labels(profile, stage) for stage in _STAGES],
            documents_from_caller=self._documents.labels(profile, "caller"),
            documents_cached=self._documents.labels(profile, "cache"),
            documents_embedded=self._documents.labels(profile, "computed"),
            inputs_cached=self._inputs.labels(profile, "cache"),
            inputs_embedded=self._inputs.labels(profile, "computed"),
            tokens=self._tokens.labels(profile),
        )

    def of_llm(self, profile: str, template: str) -> _OfLlm:
        return _OfLlm(
            outputs=[self._outputs.labels(profile, template, each) for each in _LLM_OUTCOMES],
            prompt_tokens=self._llm_tokens.labels(profile, template, "prompt"),
            generated_tokens=self._llm_tokens.labels(profile, template, "generated"),
        )


class MetricsEndpoint:
    """Serves `GET /metrics` on an address of its own, over HTTP.

    In the server's event loop: there the counters that are read, rather than
    kept, are of one moment. Only the text is written in a thread.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        application = web.Application()
        application.router.add_get("/metrics", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)

    async def start(self, address: str) -> str:
        """Listen on `HOST:PORT`; return the same with the port that was chosen if it was 0.

        Raises:
            ConfigurationError: the address cannot be listened on.
        """
        host, _, port = address.rpartition(":")
        await self._runner.setup()
        site = web.TCPSite(self._runner, host.strip("[]"), int(port))
        try:
            await site.start()
        except OSError as error:
            await self.close()
            problem = f"cannot serve metrics on {address}: {error.strerror}"
            raise ConfigurationError([problem]) from error
        bound = f"{host}:{self._runner.addresses[0][1]}"
        logger.info("metrics are at http://%s/metrics", bound)
        return bound

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp passes it
        collected = _Collected([_without_creation(each) for each in self._registry.collect()])
        text = await asyncio.to_thread(generate_latest, collected)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Collected(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _without_creation(metric: Metric) -> Metric:
    """Drop the times at which series began: nearly as many samples again, and nobody asks."""
    metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
    return metric


def address_of_process(address: str, number: int) -> str:
    """Return where gateway process `number`, from 0, of several serves its metrics: port + number.

    Raises:
        ConfigurationError: there is no such port.
    """
    host, _, port = address.rpartition(":")
    if port == "0":
        return address
    if int(port) + number > _MAX_PORT:
        problem = f"--metrics-listen: process {number} would need port {int(port) + number}"
        raise ConfigurationError([problem])
    return f"{host}:{int(port) + number}"
