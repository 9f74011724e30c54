"""Calls over HTTP that failed: the class of failure of an exception, and the wait that a service asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from nemo_mm_align.llm.clients.transport import RedirectRefusedError, ReplyTooLargeError
from nemo_mm_align.llm.failures import CallFailure, FailureKind

MOST_TOKENS = 10**9
"""What no call can cost; a larger count is a mistake, and would use up a budget at once."""


def failure_of_exception(error: Exception, raw: str = "") -> CallFailure:
    """Return the failure for an exception of a connection or of a client.

    What is no known exception comes from a reply that is not the service's protocol (a proxy's page with status 200, a cut
    body): a fault of the server.

    Args:
        raw: what came, as far as it is known.
    """
    if isinstance(error, RedirectRefusedError):
        return CallFailure("refused", str(error))
    kind: FailureKind = "timeout" if isinstance(error, requests.exceptions.Timeout) else "server"
    plain = isinstance(error, ReplyTooLargeError | requests.exceptions.Timeout)
    return CallFailure(kind, str(error) if plain else f"{type(error).__name__}: {error}", raw)


def retry_after(headers: Mapping[str, str], details: Any = None) -> float | None:
    """Return the longest wait in seconds that the service asked for.

    Args:
        headers: of the reply, case-insensitive: ``Retry-After`` (seconds or a date), ``Retry-After-Ms``.
        details: Google's error details; an entry of type ``RetryInfo`` counts.
    """
    waits = [_seconds(headers.get("Retry-After", "")), _milliseconds(headers.get("Retry-After-Ms", ""))]
    for detail in details if isinstance(details, Iterable) else ():
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith("RetryInfo"):
            waits.append(_seconds(str(detail.get("retryDelay", ""))))
    known = [wait for wait in waits if wait is not None]
    return max(known) if known else None


def _seconds(text: str) -> float | None:
    """Return ``17``, ``17.5s`` or an HTTP date as seconds from now."""
    if match := re.fullmatch(r"\s*(\d{1,9}(?:\.\d+)?)s?\s*", text):
        return float(match[1])
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _milliseconds(text: str) -> float | None:
    wait = _seconds(text) if text.strip().replace(".", "", 1).isdigit() else None
    return None if wait is None else wait / 1000


def count_of(value: Any) -> int:
    """Return a count that a service gives; 0 for what is none (a text, a fraction, infinity, below zero)."""
    whole = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS
    return int(value) if whole else 0
