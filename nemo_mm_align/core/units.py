"""Units of memory, disk space and time."""

from __future__ import annotations

MIB = 2**20
GIB = 2**30


def gib(size: float, digits: int = 2) -> str:
    """Write a number of bytes in GiB, for example ``79.00 GiB``."""
    return f"{size / GIB:.{digits}f} GiB"


def describe_age(seconds: float) -> str:
    """Write a duration in the unit that a person would choose, for example ``40 s``, ``12 min``, ``3 h``, ``9 days``."""
    for size, limit, unit in ((1, 120, "s"), (60, 120, "min"), (3600, 48, "h")):
        if seconds < size * limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
