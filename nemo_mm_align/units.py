"""Units of memory and disk space."""

from __future__ import annotations

MIB = 2**20
GIB = 2**30


def gib(size: float, digits: int = 2) -> str:
    """Write a number of bytes in GiB, for example ``79.00 GiB``."""
    return f"{size / GIB:.{digits}f} GiB"
