"""The id under which a request is logged here and known to its caller."""

from __future__ import annotations

import logging
import re
import secrets
from contextvars import ContextVar

REQUEST_ID_KEY = "x-request-id"
"""Metadata key, in requests (optional) and in every answer's trailers."""

current_request_id: ContextVar[str] = ContextVar("current_request_id", default="-")

_ACCEPTED = re.compile(r"[!-~]{1,128}")


def choose_request_id(offered: str | bytes | None) -> str:
    """Return the caller's id if it is at most 128 visible ASCII characters, else a new one."""
    if isinstance(offered, str) and _ACCEPTED.fullmatch(offered):
        return offered
    return secrets.token_hex(16)


class RequestIdFilter(logging.Filter):
    """Puts `request_id` on every log record, "-" outside of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attribute; let everything pass."""
        record.request_id = current_request_id.get()
        return True
