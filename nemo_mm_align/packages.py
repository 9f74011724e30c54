"""Versions of installed packages, as pip knows them; nothing is imported."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


def installed_version(*names: str) -> str | None:
    """Version of a package that may go by several names; ``None`` where it is not installed."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those of the packages that are installed."""
    found = {name: installed_version(name) for name in names}
    return {name: text for name, text in found.items() if text is not None}
