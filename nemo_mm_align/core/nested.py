"""Nested settings, compared under dotted names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def differing(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield name (``optim.lr``), old and new value of each setting that differs, by name; None for what is not there.

    A section that stands on one side only is one value. Give values as JSON holds them: lists for tuples.
    """
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differing(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name}", old, new
