"""Plain values as Hydra overrides: ``{"data": {"train": "x.jsonl"}}`` becomes ``data.train=x.jsonl``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from nemo_mm_align.core.errors import UserError

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@%+-]*")
_WORDS_WITH_A_MEANING = frozenset({"null", "true", "false", "yes", "no", "on", "off", "nan", "inf"})


def overrides_of(settings: Mapping[str, Any], whole: Collection[str] = (), prefix: str = "") -> list[str]:
    """Return one override per value, nested keys joined by dots, in the order of `settings`.

    Args:
        settings: plain values: numbers, texts, booleans, ``None``, lists and mappings of them.
        whole: dotted keys whose value is one mapping, not settings of their own.
        prefix: put before each key.
    """
    found: list[str] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in whole and value:
            found += overrides_of(value, whole, f"{name}.")
        else:
            found.append(f"{name}={override_value(value)}")
    return found


def override_value(value: Any) -> str:
    """Return `value` in the grammar of Hydra's overrides, quoted where it would be read as something else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_key(key)}:{override_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(override_value, value)) + "]"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS_WITH_A_MEANING:
        return text
    # Inside quotes a backslash counts only where quotes follow, or the end does.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"


def _key(key: Any) -> str:
    if not _PLAIN.fullmatch(str(key)):  # Hydra's grammar has no quotes for keys
        raise UserError(
            f"the name {key!r} cannot be handed to a script: begin it with a letter, then letters, digits or ._-"
        )
    return str(key)
