"""Whether an output is there already, and of the same settings and data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError, shorten
from nemo_mm_align.datasets.prepare.settings import PrepareSettings

ELSEWHERE = ("out", "fault_report", "data", "attribute_schema")
"""Settings that change nothing of what is written, or of which something else says the same."""


def summary_path(out: Path) -> Path:
    """Return where the summary of an output stands."""
    return Path(f"{out}.summary.json")


def identity(settings: PrepareSettings) -> dict[str, Any]:
    """Return what decides what is written, JSON-ready: the settings, and the data by their content.

    Of a folder or a data set's name the content is not looked at.
    """
    values = {key: value for key, value in settings.model_dump(mode="json").items() if key not in ELSEWHERE}
    return {
        "settings": values | {"attribute_schema": settings.attribute_schema.model_dump(mode="json")},
        "data": [_described(name) for name in settings.files],
    }


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _described(name: str) -> dict[str, Any]:
    path = Path(name)
    if not path.is_file():
        return {"name": name}
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest(path)}


def is_there_already(settings: PrepareSettings, now: Mapping[str, Any]) -> bool:
    """Whether `out` is what these settings would write.

    Raises:
        UserError: it is of other settings or data, was changed since, or is none of this command's files.
    """
    out, remedy = settings.out, "Give another out, or remove the file."
    if not out.exists():
        return False
    try:
        before = json.loads(summary_path(out).read_text(encoding="utf-8"))
        written, content = before["identity"], before["sha256"]
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(
            f"{out}: there is a file, and no {summary_path(out).name} that says how it was made. {remedy}"
        ) from None
    if content != digest(out):
        raise UserError(f"{out}: was changed after it was prepared. {remedy}")
    differences = _differences(written, now)
    if differences:
        raise UserError(f"{out}: was prepared otherwise: {'; '.join(differences)}. {remedy}")
    return True


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = before.get("settings", {}), now["settings"]
    found = [
        "another attribute_schema"
        if key == "attribute_schema"
        else f"{key}={_shown(old.get(key))} then, {_shown(value)} now"
        for key, value in new.items()
        if old.get(key) != value
    ]
    return found + (["other data"] if before.get("data") != now["data"] else [])


def _shown(value: Any) -> str:
    return shorten(json.dumps(value), 80)
