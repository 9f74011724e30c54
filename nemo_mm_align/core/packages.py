"""Installed packages, as pip knows them, and which extra brings one that is missing; nothing is imported."""

from __future__ import annotations

import importlib.util
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


EXTRA_OF = {
    **dict.fromkeys(("torch", "megatron", "nemo", "lightning", "transformers"), "train"),
    **dict.fromkeys(("datasets", "safetensors", "sentencepiece", "einops", "pyarrow"), "train"),
    "google": "gemini",
    "easy_vqa": "miniature",
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "prometheus_client"), "serve"),
}
"""Which extra of this project brings a module."""

DISTINCT = {"google": "google.generativeai"}
"""Modules that many packages share, with the part that the extra brings."""


def describe_missing(error: BaseException) -> str | None:
    """Return what to install where an import failed for want of an extra's package; None for any other error."""
    module = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if module not in EXTRA_OF or _is_there(DISTINCT.get(module, module)):
        return None
    return (
        f"the package behind the module {module} is not installed, and this needs it. From a checkout: pip install "
        f"'.[{EXTRA_OF[module]}]' -c constraints.txt (the extra nemo_mm_align[{EXTRA_OF[module]}]), or all of requirements.txt."
    )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not
        return False
