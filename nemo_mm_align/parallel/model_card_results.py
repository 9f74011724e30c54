"""Figures of an evaluation for a model card, out of results.json: a table per task, methods below each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError

_FORMATS = (2, 3)
"""Of one task, of several."""


@dataclass(frozen=True)
class TaskFigures:
    """One task of an evaluation.

    Args:
        judge: name and the models that replied, "" where no judge was asked.
        heads: of the table's columns.
        rows: a method and its figures, as text.
        notes: what the evaluation itself warns of.
    """

    task: str
    prompts: str
    judge: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def read_figures(path: Path) -> tuple[TaskFigures, ...]:
    """Return the figures of a results.json; raise `UserError` where it is missing or not one."""
    if not path.is_file():
        raise UserError(f"results={path}: no such file. Give the results.json that scripts/evaluate.py has written.")
    try:
        values = json.loads(path.read_bytes())
        if values["format"] not in _FORMATS:
            raise ValueError(f"format {values['format']}")
        tasks = values["tasks"].values() if values["format"] == _FORMATS[1] else [values]
        return tuple(map(_figures, tasks))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"results={path}: not a result of this version ({error!r}). Evaluate again.") from None


def _figures(task: Mapping[str, Any]) -> TaskFigures:
    found = [method["measurements"] for method in task["methods"].values()]
    measures = [
        measure
        for measure in task["measures"]
        if not measure["grouped"] and any(measure["name"] in values for values in found)
    ]
    rows = tuple(
        (name, *(_figure(method["measurements"].get(measure["name"]), measure["digits"]) for measure in measures))
        for name, method in task["methods"].items()
    )
    prompts = ", ".join(f"{count} {kind}" for kind, count in task.get("prompts", {}).items())
    heads = tuple(measure["label"] for measure in measures)
    return TaskFigures(str(task["task"]), prompts, _judge(task), heads, rows, tuple(task.get("notes", ())))


def _figure(found: Mapping[str, Any] | None, digits: int) -> str:
    if found is None:
        return ""
    interval = found.get("interval")
    spread = f" ({interval['low']:.{digits}f} to {interval['high']:.{digits}f})" if interval else ""
    return f"{found['value']:.{digits}f}{spread}"


def _judge(task: Mapping[str, Any]) -> str:
    made = task.get("reproduction") or {}
    replied = ", ".join(made.get("judge_versions", ()))
    return f"{made['judge']} ({replied})" if made.get("judge") and replied else str(made.get("judge") or "")
