"""What annotations were made with, in a file beside them: they can be understood without ledger and configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nemo_mm_align.core.atomic import write_json
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.inputs import Selection
from nemo_mm_align.labeling.items import LabelContext
from nemo_mm_align.labeling.judge import price_of


def settings_path(annotations: Path) -> Path:
    """Return where the settings of an annotations file stand."""
    return annotations.with_name(f"{annotations.stem}.settings.json")


def default_ledger(annotations: Path) -> Path:
    """Return where the attempts behind an annotations file are recorded, unless the user says otherwise."""
    return annotations.with_name(f"{annotations.stem}.ledger.jsonl")


def report_path(annotations: Path) -> Path:
    """Return where the report on an annotations file stands."""
    return annotations.with_suffix(".html")


def write_settings(annotations: Path, context: LabelContext, selection: Selection) -> None:
    """Write judge, its settings with rubric text, schema, which prompts, and the hash that each annotation carries."""
    write_json(settings_path(annotations), settings_of(context, selection), ensure_ascii=False)


def settings_of(context: LabelContext, selection: Selection) -> dict[str, Any]:
    """Return what `write_settings` writes."""
    price = price_of(context.judge)
    return {
        "configuration": context.fingerprint,
        **context.configuration,
        "schema_fingerprint": context.schema.fingerprint,
        "repeat": selection.repeat,
        "sample": selection.sample,
        "seed": selection.seed,
        "price": price.model_dump() if price else None,
    }


def read_settings(annotations: Path) -> dict[str, Any]:
    """Return what `write_settings` wrote; empty where there is no such file.

    Raises:
        UserError: the file is no JSON object.
    """
    path = settings_path(annotations)
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}). Delete the file; the next labelling run writes it.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object. Delete the file; the next labelling run writes it.")
    return value


def check_selection(annotations: Path, selection: Selection) -> None:
    """Refuse to write over annotations that the new ones do not contain: a repetition's, or those of more prompts.

    Raises:
        UserError: the annotations hold another repetition, or prompts that `selection` leaves out.
    """
    settings = read_settings(annotations)
    if not settings or not annotations.is_file():
        return
    before = Selection(settings.get("repeat", 0), settings.get("sample"), settings.get("seed", 0))
    if before.repeat != selection.repeat:
        raise UserError(
            f"{annotations} holds judgements of repeat={before.repeat}; give those of repeat={selection.repeat} a file of "
            "their own: out=..."
        )
    if not selection.contains(before):
        raise UserError(
            f"{annotations} holds the annotations of {before.describe()}; {selection.describe()} would replace them and "
            "leave some out. Give the new ones a file of their own, out=..., with ledger=... of the old ones, so that "
            "nothing is asked twice."
        )
