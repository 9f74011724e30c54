"""What is known of the model that training began with: its name on the hub, its licence. Never more than somebody wrote down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nemo_mm_align.parallel.conversion_settings import CardSettings

_LICENSE_KEYS = ("license", "license_name", "license_link")
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/")


@dataclass(frozen=True)
class BaseFacts:
    """The base of an export.

    Args:
        folder: name of its folder, without the path to it.
        hub_name: ``owner/name``; None where nobody knows it.
        license: ``license`` of the hub's front matter, with ``license_name`` and ``license_link`` where they are given.
        license_from: who says so.
        license_text: first line of a licence file in the folder.
    """

    folder: str
    fingerprint: str
    hub_name: str | None
    license: Mapping[str, str]
    license_from: str
    license_text: str | None


def base_facts(folder: Path, fingerprint: str, card: CardSettings) -> BaseFacts:
    """Return what the settings, the base's own README.md, its licence file and its place in the hub's cache say."""
    matter = front_matter(folder / "README.md")
    stated = {key: str(matter[key]) for key in _LICENSE_KEYS if isinstance(matter.get(key), str)}
    cached = _CACHED.search(folder.as_posix() + "/")
    known = "/".join(cached.groups()) if cached else matter.get("base_model")
    license_, said_by = (
        ({"license": card.license}, "whoever exported") if card.license else (stated, "the base's README.md")
    )
    return BaseFacts(
        folder=folder.name,
        fingerprint=fingerprint,
        hub_name=card.base_model or (known if isinstance(known, str) else None),
        license=license_,
        license_from=said_by if license_ else "",
        license_text=_first_line(folder),
    )


def front_matter(path: Path) -> dict[str, Any]:
    """Return the YAML between the first two lines of ``---``; {} where there is none that can be read."""
    try:
        text = path.read_text(encoding="utf-8")
        found = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
        values = yaml.safe_load(found[1]) if found else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _first_line(folder: Path) -> str | None:
    for path in sorted(folder.glob("LICENSE*")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        said = next((line.strip() for line in lines if line.strip()), None)
        if said is not None:
            return said[:120]
    return None
