"""Reading single fields of requests: optional counts and open enumerations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from google.protobuf.message import Message

from e2rank_server.gateway.violations import Violations

_Value = TypeVar("_Value")


def decode_count(
    message: Message,
    name: str,
    violations: Violations,
    *,
    within: str = "",
    at_least: int = 1,
    at_most: int | None = None,
) -> int | None:
    """Read an optional count; unset is None. `within` is the path of the message, as `e2rank.`."""
    if not message.HasField(name):
        return None
    count: int = getattr(message, name)
    if count < at_least:
        violations.add(f"{within}{name}", f"is {count}; it must be at least {at_least}, or unset")
    elif at_most is not None and count > at_most:
        violations.add(f"{within}{name}", f"is {count}, more than the limit of {at_most}")
    return count


def decode_enum(
    number: int, values: Mapping[int, _Value], field: str, violations: Violations
) -> _Value | None:
    """Read an enumeration's value."""
    if number not in values:
        # An open enum: a number from a newer contract, or from nowhere.
        violations.add(field, f"{number} is not a value of this enum")
    return values.get(number)
