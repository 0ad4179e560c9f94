"""Sides measured in turns, each alone on the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import psutil

from benchmarks.overhead.processes import stopped


class Side(Protocol):
    """What is measured: a name, and the processes that work for it."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def processes(self) -> Sequence[psutil.Process]: ...  # noqa: D102


AnySide = TypeVar("AnySide", bound=Side)


def order(sides: Sequence[AnySide], turn: int) -> list[AnySide]:
    """Return the sides in the order of a turn: forwards, then backwards (ABBA).

    So none always follows the same other, and a machine that slows down or
    speeds up weighs on all alike.
    """
    return list(sides) if turn % 2 == 0 else list(reversed(sides))


@contextmanager
def alone(side: Side, sides: Sequence[Side]) -> Iterator[None]:
    """Keep all other sides from running while the block runs."""
    with stopped([process for other in sides if other is not side for process in other.processes]):
        yield
