"""AlpacaEval's files: lists of {instruction, output, generator}, and the table of difficulties with gamed baselines.

Read from tatsu-lab/alpaca_eval, commit cd543a149df89434d8a54582c0151c0b945c3d20: results/*/model_outputs.json, and
src/alpaca_eval/metrics/glm_winrate.py for ``df_gamed.csv`` and ``instruction_difficulty.csv`` of the data set.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.evaluation.alpaca.regression import GamedRows
from nemo_mm_align.evaluation.sources import source_rows
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER


@dataclass(frozen=True)
class Output:
    """One answer of an outputs file; `dataset` is the part of the instruction set, where the file says it."""

    instruction: str
    output: str
    generator: str
    dataset: str = ""


@dataclass(frozen=True)
class Difficulties:
    """Difficulty per place in the published instruction set, and the gamed baselines' rows where the file has them."""

    by_place: Mapping[int, float]
    gamed: GamedRows | None


def read_outputs(path: Path, needs_output: bool = True) -> dict[str, Output]:
    """Return the rows of an outputs file by their instruction, in the file's order.

    Args:
        needs_output: False for an instruction set, whose rows need no answer.

    Raises:
        UserError: no such file, a row without instruction or output, or an instruction twice; the message names the rows.
    """
    found: dict[str, Output] = {}
    seen: dict[str, int] = {}
    for number, (_, row) in enumerate(source_rows(path), start=1):
        one = _output(path, number, row, needs_output)
        if one.instruction in found:
            raise RecordError(
                path,
                number,
                f"the instruction {_short(one.instruction)} stands in row {seen[one.instruction]} already",
                "Keep one of them: an answer is found by its instruction.",
            )
        found[one.instruction], seen[one.instruction] = one, number
    if not found:
        raise UserError(f"{path}: no rows. Give a list of {{instruction, output, generator}}.")
    return found


def _output(path: Path, number: int, row: Mapping[str, Any], needs_output: bool) -> Output:
    for name in ("instruction", "output") if needs_output else ("instruction",):
        if not isinstance(row.get(name), str):
            raise RecordError(path, number, f"{name} is {row.get(name)!r}, not text", "Give every row its own.")
    if not row["instruction"].strip() or IMAGE_PLACEHOLDER in row["instruction"]:
        raise RecordError(
            path, number, f"an instruction that is empty or holds {IMAGE_PLACEHOLDER}", "Take the row out."
        )
    return Output(
        row["instruction"], str(row.get("output") or ""), str(row.get("generator") or ""), str(row.get("dataset") or "")
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 80 else f"{line[:80]}...")


def is_outputs(path: Path) -> bool:
    """Whether a file is a list of objects with instruction and output, as AlpacaEval writes it."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    first = found[0] if isinstance(found, list) and found else None
    return isinstance(first, dict) and {"instruction", "output"} <= set(first)


def outputs_text(outputs: Iterable[Mapping[str, Any]]) -> str:
    """Return the text of an outputs or annotations file."""
    return json.dumps(list(outputs), ensure_ascii=False, indent=2) + "\n"


def read_difficulties(path: Path) -> Difficulties:
    """Read ``df_gamed.csv`` (difficulties and gamed baselines) or ``instruction_difficulty.csv`` (difficulties alone).

    Raises:
        UserError: no such file, or a row that lacks a number; the message names file and line.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such file. Give df_gamed.csv of the data set tatsu-lab/alpaca_eval, or difficulty=null."
        )
    by_place: dict[int, float] = {}
    gamed: list[tuple[float, float, float]] = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        names = _column_names(path, reader.fieldnames or [])
        for row in reader:
            place, difficulty, *rest = (_number(path, reader.line_num, name, row[name]) for name in names)
            by_place.setdefault(int(place), difficulty)
            if rest:
                gamed.append((rest[0], rest[1], difficulty))
    if not by_place:
        raise UserError(f"{path}: no rows.")
    return Difficulties(by_place, GamedRows(*np.array(gamed).T) if gamed else None)


def _column_names(path: Path, header: Iterable[str]) -> tuple[str, ...]:
    """Return the columns to read: place and difficulty, and of gamed rows preference and length."""
    names = list(header)
    if len(names) == 2:  # place and difficulty, whatever they are called
        return names[0], names[1]
    if not {"index", "instruction_difficulty"} <= set(names):
        raise UserError(
            f"{path}: its columns are {', '.join(names)}; index and instruction_difficulty are needed. Give df_gamed.csv as "
            "published."
        )
    rest = ("preference", "std_delta_len")
    return ("index", "instruction_difficulty", *(rest if set(rest) <= set(names) else ()))


def _number(path: Path, line: int, name: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RecordError(path, line, f"{name or 'index'} is {text!r}, no number", "Take the file as published.")
    return value
