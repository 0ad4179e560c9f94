"""A load test of a running server with Locust, over gRPC and through the public client.

    locust -f benchmarks/locustfile.py --host 127.0.0.1:50051

From the repository's root; Locust's web page is then at port 8089, with all parameters
below "Custom parameters". Without the page:

    locust -f benchmarks/locustfile.py --host 127.0.0.1:50051 --headless --users 8 \
        --scenario rerank_cold --seconds 30

`locust -f benchmarks/locustfile.py --help` describes the parameters; `make bench-load` runs
all scenarios against a server of its own and writes the figures.

Open arrivals: what is measured is the time since a request was due, and a request is due
whether or not a user is free to send it, so a slow answer is not hidden by requests that were
not made meanwhile. `--users` is how many can be in progress; have more than enough. Closed
arrivals: each user sends its next request when it has the answer to the last.

How this is gevent-safe: Locust's users are greenlets of one thread, and a call that blocked
the thread would stop them all. `grpc.experimental.gevent.init_gevent()`, called before the
first channel exists, makes gRPC's blocking calls yield to gevent's hub, so this is the
synchronous `E2RankClient` as it is. Measured with grpcio 1.85 and gevent 26.9 on a gateway
on fakes, 100 documents a request: 880 µs of processor time a request with one user, 840 with
64 (native threads: 740 and 860; asyncio: 770 and 810), and as many requests a second. The
other way, the asyncio client on a native thread with greenlets waiting for it, hangs under
Locust, which replaces `threading` throughout: the thread that gRPC's asyncio polls with
becomes a greenlet that nothing runs. With threads left alone it costs the same 840 to 930 µs.

Each user has a connection of its own, as clients of different machines have. Nothing is
repeated: a failure counts, by the name of its gRPC status. Requests in progress at the end
are waited for and counted, else the slowest would be missing.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

import gevent  # type: ignore[import-not-found,import-untyped,unused-ignore]
from gevent.event import Event  # type: ignore[import-not-found,import-untyped,unused-ignore]
from grpc.experimental import gevent as grpc_gevent
from locust import User, events, task  # type: ignore[import-not-found,unused-ignore]
from locust.exception import StopTest  # type: ignore[import-not-found,unused-ignore]
from locust.runners import LocalRunner  # type: ignore[import-not-found,unused-ignore]

from benchmarks.load.arrivals import PoissonArrivals
from benchmarks.load.parameters import (
    Arrivals,
    LoadParameters,
    ParameterError,
    add_arguments,
    parameters_of,
)
from benchmarks.load.recording import Recorder, Recording, save
from benchmarks.load.workload import Answer, Send, Workload
from e2rank_client import E2RankClient, E2RankError

grpc_gevent.init_gevent()

_READY_SECONDS = 10.0
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
_POLL_SECONDS = 0.1
_UNTIL_STOPPED_SECONDS = 3600.0
_USAGE_ERROR = 2

_log = logging.getLogger(__name__)


class FailedRequestError(Exception):
    """A request that failed; the message is the name of its gRPC status."""


class LoadRun:
    """One run of a load, from its warm-up to its recording."""

    def __init__(self, parameters: LoadParameters, address: str) -> None:
        self.parameters = parameters
        self.workload = Workload(parameters)
        self._arrivals = PoissonArrivals(parameters.rate, parameters.seed)
        self._address = address
        self._clients: list[E2RankClient] = []
        self._recorder = Recorder()
        self._ended = Event()
        self._over_since: float | None = None
        self._num_due = 0

    def prepare(self, num_clients: int) -> None:
        """Connect, warm up, start the clocks. A server that fails is measured, too."""
        clients = [self.take_client() for _ in range(max(1, num_clients))]
        try:
            for client in clients:
                client.wait_until_ready(timeout_seconds=_READY_SECONDS)
            for send in self.workload.warm_up():
                send(clients[0])
        except E2RankError as error:
            _log.warning("the warm-up failed: %s: %s", error.code.name, error)
        self._clients = clients
        self._recorder.begin()

    def take_client(self) -> E2RankClient:
        """Return a client for one user, connected if the run was prepared for so many."""
        if self._clients:
            return self._clients.pop()
        return E2RankClient(self._address, max_attempts=1, channel_options=_OWN_CONNECTION)

    def next_due(self) -> float:
        """Return when the next request is due, in `time.perf_counter`'s seconds."""
        if self.parameters.arrivals is Arrivals.CLOSED:
            return time.perf_counter()
        return self._recorder.begun + next(self._arrivals)

    def request(self, client: E2RankClient, due: float, send: Send) -> tuple[float, str | None]:
        """Send a request that is due; return its latency in seconds and status, None if OK."""
        sent = time.perf_counter()
        outcome: Answer | str
        try:
            outcome = send(client)
        except E2RankError as error:
            outcome = error.code.name
        latency = self._recorder.add(due, sent, outcome)
        self._ended.set()
        return latency, outcome if isinstance(outcome, str) else None

    def is_over(self) -> bool:
        """Return whether it has lasted as long, and had as many requests, as it is to."""
        if self._over_since is None:
            now, num_requests = time.perf_counter(), len(self._recorder.statuses)
            if self.parameters.is_over(now - self._recorder.begun, num_requests):
                self._over_since = now
        return self._over_since is not None

    def wait_until_over(self) -> None:
        """Return when it is."""
        gevent.sleep(self.parameters.seconds)
        while not self.is_over():
            self._ended.clear()
            self._ended.wait(_POLL_SECONDS)

    def stop(self) -> None:
        """Count what was due until it was over, or else until now."""
        if self.parameters.arrivals is Arrivals.OPEN:
            end = self._over_since or time.perf_counter()
            self._num_due = self._arrivals.num_due(end - self._recorder.begun)

    def recording(self) -> Recording:
        """Return what was recorded."""
        return self._recorder.finished(self._num_due)


class LoadUser(User):  # type: ignore[misc,unused-ignore] # Locust is missing where only linters are
    """Sends requests of the scenario, one at a time."""

    run_now: LoadRun

    def on_start(self) -> None:
        """Get a client, and no request yet."""
        self._client = self.run_now.take_client()
        self._next: tuple[float, Send] | None = None

    def on_stop(self) -> None:
        """Close the client."""
        self._client.close()

    def wait_time(self) -> float:
        """Make the next request ready, and return how long it is until it is due."""
        if self.run_now.is_over():
            return _UNTIL_STOPPED_SECONDS
        send = self.run_now.workload.next()
        due = self.run_now.next_due()
        self._next = (due, send)
        return max(0.0, due - time.perf_counter())

    @task
    def send(self) -> None:
        """Send the request that is due; the first time there is none."""
        if self._next is None:
            return
        seconds, failure = self.run_now.request(self._client, *self._next)
        self.environment.events.request.fire(
            request_type="gRPC",
            name=self.run_now.parameters.scenario.value,
            response_time=1e3 * seconds,
            response_length=0,
            exception=FailedRequestError(failure) if failure else None,
            context={},
        )


def _add_arguments(parser: Any) -> None:  # noqa: ANN401 - Locust's argparse parser
    add_arguments(parser)
    parser.add_argument(
        "--recording",
        default="",
        metavar="FILE",
        help="write every request's time and status here, as JSON, when a run ends",
        include_in_web_ui=False,
    )


def _check(environment: Any, **_: object) -> None:  # noqa: ANN401 - Locust's Environment
    """End at once if the parameters do not fit."""
    options = environment.parsed_options
    try:
        if not isinstance(environment.runner, LocalRunner):
            raise ParameterError("--master, --worker and --processes: this test is one process")
        if options.headless and not environment.host:
            raise ParameterError("--host is empty, not the server's HOST:PORT")
        parameters_of(options)
    except ParameterError as error:
        print(f"locustfile: {error}", file=sys.stderr)
        sys.exit(_USAGE_ERROR)


def _begin(environment: Any, **_: object) -> None:  # noqa: ANN401
    options = environment.parsed_options
    try:
        parameters = parameters_of(options)
    except ParameterError as error:  # set on the web page since they were checked
        _log.error("%s", error)
        raise StopTest from error
    # Requests in progress at the end are part of the measurement.
    environment.stop_timeout = max(environment.stop_timeout, parameters.timeout_seconds)
    LoadUser.run_now = run = LoadRun(parameters, environment.host)
    run.prepare(options.num_users or 1)
    if parameters.seconds or parameters.min_requests:
        gevent.spawn(_end, environment, run)


def _end(environment: Any, run: LoadRun) -> None:  # noqa: ANN401
    run.wait_until_over()
    if LoadUser.run_now is not run:
        return  # it was stopped on the web page, and another begun
    if environment.web_ui is None:
        environment.runner.quit()
    else:
        environment.runner.stop()


def _note_stop(**_: object) -> None:
    LoadUser.run_now.stop()


def _finish(environment: Any, **_: object) -> None:  # noqa: ANN401
    if environment.parsed_options.recording:
        save(LoadUser.run_now.recording(), Path(environment.parsed_options.recording))


_hooks: Any = events  # whose add_listener has no types
_hooks.init_command_line_parser.add_listener(_add_arguments)
_hooks.init.add_listener(_check)
_hooks.test_start.add_listener(_begin)
_hooks.test_stopping.add_listener(_note_stop)
_hooks.test_stop.add_listener(_finish)
