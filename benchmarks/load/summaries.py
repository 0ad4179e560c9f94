"""From a recording to figures, and to the conditions that qualify them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.intervals import Estimate
from benchmarks.load.locust_process import Load
from benchmarks.load.quantiles import quantile
from benchmarks.load.recording import Recording

MIN_REQUESTS_FOR_P99 = 100
"""Of fewer, the 99th percentile is merely the slowest."""

_QUANTILES = {"p50_seconds": 0.5, "p95_seconds": 0.95, "p99_seconds": 0.99}


def latency_figures(name: str, recording: Recording) -> dict[str, float | Estimate]:
    """Return percentiles of the answered requests; no p99 of fewer than 100."""
    seconds = recording.answered_seconds
    return {
        f"{name}.{label}": quantile(seconds, share)
        for label, share in _QUANTILES.items()
        if seconds and (label != "p99_seconds" or len(seconds) >= MIN_REQUESTS_FOR_P99)
    }


def scenario_figures(name: str, recording: Recording) -> dict[str, float | Estimate]:
    """Return all figures of a scenario, its stages in the server included.

    A stage's figure is its mean over the answers, so that stages can be stacked.
    """
    num_answered = len(recording.answered_seconds)
    # An LLM needs no embeddings.
    has_hit_rate = recording.documents_cached + recording.documents_embedded > 0
    return {
        **latency_figures(name, recording),
        f"{name}.rps": recording.requests_per_second,
        f"{name}.error_rate": recording.error_rate,
        **({f"{name}.hit_rate": recording.hit_rate} if has_hit_rate else {}),
        f"{name}.generator_cpu_share": recording.generator_cpu_share,
        **{
            f"{name}.stage.{stage}": seconds / num_answered
            for stage, seconds in recording.stage_seconds.items()
            if seconds
        },
    }


def conditions_of(load: Load, recording: Recording) -> dict[str, Any]:
    """Return what was sent, and what to know before believing what was measured."""
    lengths = ("seconds", "min_requests", "max_seconds")
    sent = {
        name: value
        for name, value in asdict(load.parameters).items()
        if value not in ("", 0) and name not in lengths
    }
    if load.parameters.arrivals == "closed":
        del sent["rate"]
    return {
        **sent,
        "documents": load.parameters.num_documents,
        "users": load.users,
        "requests": recording.num_requests,
        "measured_seconds": round(recording.wall_seconds, 1),
        "failures": recording.failures,
        "unsent": recording.num_unsent,
        "lateness_p95_seconds": round(quantile(recording.lateness_seconds, 0.95).value, 5),
        "generator_cores": round(recording.generator_cores, 2),
        "is_generator_saturated": recording.is_generator_saturated,
    }
