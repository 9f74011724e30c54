"""Alternatives of a token as services tell them, in one form."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


def most_likely_first(alternatives: Iterable[tuple[Any, Any]]) -> tuple[tuple[str, float], ...]:
    """Return (token, log-probability) pairs in order; a token of probability 0 is left out, as if it had not been told."""
    known = [(str(token), float(value)) for token, value in alternatives if value is not None]
    return tuple(sorted((pair for pair in known if math.isfinite(pair[1])), key=lambda pair: -pair[1]))
