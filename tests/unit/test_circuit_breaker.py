from __future__ import annotations

import logging

import pytest

from e2rank_server.embedding_cache.circuit_breaker import BreakerState, CircuitBreaker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(
        "the tier",
        max_failures=3,
        window_seconds=10,
        pause_seconds=1,
        max_pause_seconds=8,
        clock=clock,
    )


def fail(breaker: CircuitBreaker, times: int = 3) -> None:
    for _ in range(times):
        assert breaker.allows()
        breaker.failed("no answer")


def test_it_lets_calls_through_while_they_succeed(breaker: CircuitBreaker) -> None:
    for _ in range(100):
        assert breaker.allows()
        breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED
    assert breaker.remaining_seconds == 0


def test_it_opens_after_so_many_failures_in_a_row(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allows()
    assert breaker.remaining_seconds == 1


def test_a_success_between_failures_begins_the_row_anew(breaker: CircuitBreaker) -> None:
    for _ in range(10):
        fail(breaker, 2)
        breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_failures_that_lie_far_apart_are_not_a_row(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(10):
        fail(breaker, 1)
        clock.now += 6
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 1)
    clock.now += 1
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN


def test_after_the_pause_one_call_is_let_through_and_its_success_closes_it(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker)
    clock.now += 1
    assert breaker.allows()
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.allows()
    breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED


def test_each_failed_try_doubles_the_pause_up_to_a_limit(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker)
    pauses = []
    for _ in range(5):
        pauses.append(breaker.remaining_seconds)
        clock.now += breaker.remaining_seconds
        fail(breaker, 1)
    assert pauses == [1, 2, 4, 8, 8]


def test_the_pause_is_short_again_after_a_success(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += 1
    fail(breaker, 1)
    clock.now += 2
    assert breaker.allows()
    breaker.succeeded()
    fail(breaker)
    assert breaker.remaining_seconds == 1


def test_a_try_whose_outcome_nobody_reports_costs_one_pause(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker)
    clock.now += 1
    assert breaker.allows()
    clock.now += 0.9
    assert not breaker.allows()
    clock.now += 0.1
    assert breaker.allows()


def test_outcomes_of_calls_from_before_it_opened_are_ignored(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    for _ in range(20):
        assert breaker.allows()
    for _ in range(20):
        breaker.failed("no answer")
    assert breaker.remaining_seconds == 1
    breaker.succeeded()
    assert breaker.state is BreakerState.OPEN
    clock.now += 1
    assert breaker.allows()


def test_opening_and_closing_are_logged_once_with_the_reason(
    breaker: CircuitBreaker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    fail(breaker)
    clock.now += 1
    assert breaker.allows()
    breaker.succeeded()
    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert warnings == ["the tier is away (no answer), not asking for 1 s", "the tier is back"]
