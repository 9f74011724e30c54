"""What an HTTP service says when it refuses: the class of failure of a status, and the wait it asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from nemo_mm_align.labeling.judge import FailureKind

RAW_LIMIT = 20_000
"""Characters of an error body that are kept."""


def kind_of_status(code: int) -> FailureKind:
    """Return the class of failure that a status stands for."""
    if code == 429:
        return "rate_limit"
    if code in (408, 504):
        return "timeout"
    if code in (401, 402, 403):
        return "auth"
    return "server" if code >= 500 or code == 409 else "bad_request"


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
