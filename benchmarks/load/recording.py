"""What a load test saw: every request's time and status, and what the answers say of the work."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from benchmarks.figures import write
from benchmarks.load.workload import Answer
from e2rank_client import EmbedResult

OK = "OK"
SATURATED_CORES = 0.8
"""One thread makes, sends and reads all requests: at a whole core latencies are its own."""


class RecordingError(Exception):
    """A file holds no recording, or there is nothing in it."""


@dataclass(frozen=True, slots=True)
class Recording:
    """All requests of a run that ended, in the order in which they did.

    `latency_seconds` is from when a request was due until its answer was read, and
    `lateness_seconds` the part of it before it was sent. `num_unsent` were due by the end
    but had not been sent, for want of users. `stage_seconds` has sums over the answers.
    Processor time is the load generator's own.
    """

    latency_seconds: Sequence[float]
    lateness_seconds: Sequence[float]
    statuses: Sequence[str]
    wall_seconds: float
    cpu_seconds: float
    num_unsent: int
    documents_cached: int
    documents_embedded: int
    stage_seconds: Mapping[str, float]

    @property
    def num_requests(self) -> int:
        """Answered or failed."""
        return len(self.statuses)

    @property
    def answered_seconds(self) -> list[float]:
        """Latencies of the requests that were answered."""
        pairs = zip(self.latency_seconds, self.statuses, strict=True)
        return [seconds for seconds, status in pairs if status == OK]

    @property
    def failures(self) -> dict[str, int]:
        """How many failed, by status."""
        return dict(Counter(status for status in self.statuses if status != OK))

    @property
    def error_rate(self) -> float:
        """Share of those that failed."""
        return sum(self.failures.values()) / self.num_requests

    @property
    def requests_per_second(self) -> float:
        """Answered requests only."""
        return len(self.answered_seconds) / self.wall_seconds

    @property
    def hit_rate(self) -> float:
        """Share of the documents whose embeddings were cached; 0 if there were none."""
        return self.documents_cached / max(1, self.documents_cached + self.documents_embedded)

    @property
    def generator_cores(self) -> float:
        """Cores that the load generator kept busy."""
        return self.cpu_seconds / self.wall_seconds

    @property
    def generator_cpu_share(self) -> float:
        """The same as a share of all cores of the machine."""
        return self.generator_cores / (os.cpu_count() or 1)

    @property
    def is_generator_saturated(self) -> bool:
        """Whether latencies may be the load generator's own."""
        return self.generator_cores > SATURATED_CORES


@dataclass(slots=True)
class Recorder:
    """Records a run from `begin` on."""

    latency_seconds: list[float] = field(default_factory=list)
    lateness_seconds: list[float] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    documents: Counter[str] = field(default_factory=Counter)
    begun: float = 0.0
    _last_end: float = 0.0
    _cpu_begun: float = 0.0
    _cpu_last: float = 0.0

    def begin(self) -> None:
        """Start the clocks."""
        self.begun = self._last_end = time.perf_counter()
        self._cpu_begun = self._cpu_last = time.process_time()

    def add(self, due: float, sent: float, outcome: Answer | str) -> float:
        """Record a request that ends now: its answer or its status; return its latency.

        `due` and `sent` are of `time.perf_counter`.
        """
        self._last_end, self._cpu_last = time.perf_counter(), time.process_time()
        latency = self._last_end - due
        self.latency_seconds.append(latency)
        self.lateness_seconds.append(sent - due)
        self.statuses.append(outcome if isinstance(outcome, str) else OK)
        if not isinstance(outcome, str):
            self._add_answer(outcome)
        return latency

    def _add_answer(self, answer: Answer) -> None:
        self.stage_seconds = _sums(self.stage_seconds, asdict(answer.timings))
        if isinstance(answer, EmbedResult):
            cached, embedded = answer.usage.inputs_cached, answer.usage.inputs_embedded
        else:
            cached, embedded = answer.usage.documents_cached, answer.usage.documents_embedded
        self.documents["cached"] += cached
        self.documents["embedded"] += embedded

    def finished(self, num_due: int) -> Recording:
        """Return what was recorded; `num_due` is how many requests were due by the end."""
        return Recording(
            latency_seconds=self.latency_seconds,
            lateness_seconds=self.lateness_seconds,
            statuses=self.statuses,
            wall_seconds=self._last_end - self.begun,
            cpu_seconds=self._cpu_last - self._cpu_begun,
            num_unsent=max(0, num_due - len(self.statuses)),
            documents_cached=self.documents["cached"],
            documents_embedded=self.documents["embedded"],
            stage_seconds=self.stage_seconds,
        )


def save(recording: Recording, file: Path) -> None:
    """Write a recording, whole or not at all."""
    write(file, asdict(recording))


def load(file: Path) -> Recording:
    """Read what `save` wrote.

    Raises:
        RecordingError: There is none, or no request ended.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        recording = Recording(**content)
    except (OSError, ValueError, TypeError) as error:
        raise RecordingError(f"{file.name} holds no recording: {error}") from error
    if not recording.num_requests:
        raise RecordingError(f"{file.name}: no request ended")
    return recording


def merged(recordings: Sequence[Recording]) -> Recording:
    """Return runs of the same load, one after the other, as one."""
    return Recording(
        latency_seconds=[s for each in recordings for s in each.latency_seconds],
        lateness_seconds=[s for each in recordings for s in each.lateness_seconds],
        statuses=[status for each in recordings for status in each.statuses],
        wall_seconds=sum(each.wall_seconds for each in recordings),
        cpu_seconds=sum(each.cpu_seconds for each in recordings),
        num_unsent=sum(each.num_unsent for each in recordings),
        documents_cached=sum(each.documents_cached for each in recordings),
        documents_embedded=sum(each.documents_embedded for each in recordings),
        stage_seconds=reduce(_sums, (each.stage_seconds for each in recordings)),
    )


def _sums(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {stage: one.get(stage, 0.0) + other.get(stage, 0.0) for stage in {**one, **other}}
