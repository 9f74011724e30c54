"""MMBench's sheets, and LLaVA's answers to it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.packages import installed_version
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.tasks.mmbench_data import LETTERS, TURN, MMBenchQuestion, read_table
from nemo_mm_align.evaluation.tasks.task_lines import TaskLine, by_key, task_lines

HEAD = ("index", "question", "hint", *LETTERS, "prediction", "answer", "category", "l2-category", "split")
"""Columns of a sheet: the table's without pictures, and what was answered."""


def read_sheet_answers(path: Path) -> dict[str, tuple[str, ...]] | None:
    """Return answers by index; None for a file of another form.

    Args:
        path: a sheet (``.tsv``, ``.csv``, ``.xlsx``) with ``index`` and ``prediction``, or LLaVA's JSONL with ``question_id``,
            ``text`` and, where options were turned, ``round_id``.

    Raises:
        UserError: a row is broken or an index stands twice.
    """
    suffix = path.suffix.lower()
    if suffix in (".tsv", ".csv", ".xlsx"):
        lines = _workbook(path) if suffix == ".xlsx" else read_table(path)
        return {key: (_cell(line, "prediction"),) for key, line in by_key(lines, "index").items()}
    if not _is_llava(path):
        return None
    return {key: (line.text("text"),) for key, line in by_key(_by_index(path), "index").items()}


def sheet_files(
    name: str, scored: Sequence[ScoredAnswer], questions: Sequence[MMBenchQuestion]
) -> dict[str, str | bytes]:
    """Return a method's sheet as TSV and CSV and, where openpyxl is installed, as the workbook that MMBench's server takes."""
    answers = {one.prompt_id: one.answer for one in scored if not one.failed}
    rows = [HEAD, *(_row(one, answers[str(one.index)]) for one in questions if str(one.index) in answers)]
    files: dict[str, str | bytes] = {
        f"{name}_mmbench.tsv": _text(rows, "\t"),
        f"{name}_mmbench.csv": _text(rows, ","),
    }
    if installed_version("openpyxl"):
        files[f"{name}_mmbench.xlsx"] = _workbook_of(rows)
    return files


def _row(one: MMBenchQuestion, answer: str) -> tuple[str | int, ...]:
    options = (one.options.get(letter, "") for letter in LETTERS)
    return (one.index, one.question, one.hint, *options, answer, one.answer, one.category, one.l2_category, one.split)


def _text(rows: Sequence[Sequence[str | int]], delimiter: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _workbook_of(rows: Sequence[Sequence[str | int]]) -> bytes:
    import openpyxl
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    for row in rows:
        cells = [ILLEGAL_CHARACTERS_RE.sub("", cell) if isinstance(cell, str) else cell for cell in row]
        sheet.append([_plain(sheet, cell) for cell in cells])
    written = io.BytesIO()
    book.save(written)
    return written.getvalue()


def _plain(sheet: Any, value: str | int) -> Any:
    """Return a cell whose text is text: an answer that begins with = is no formula."""
    from openpyxl.cell import WriteOnlyCell

    cell = WriteOnlyCell(sheet, value)
    if isinstance(value, str):
        cell.data_type = "s"
    return cell


def _workbook(path: Path) -> Iterator[TaskLine]:
    if not installed_version("openpyxl"):
        raise UserError(
            f"{path}: reading a workbook needs openpyxl. Install it (pip install openpyxl), or save it as TSV."
        )
    import openpyxl

    rows = openpyxl.load_workbook(path, read_only=True, data_only=True).active.iter_rows(values_only=True)
    head = [str(cell) for cell in next(rows, ())]
    for number, row in enumerate(rows, start=2):
        yield TaskLine(path, number, dict(zip(head, row, strict=False)))


def _cell(line: TaskLine, name: str) -> str:
    if name not in line.fields:
        raise line.wrong(f"no column {name}", f"a sheet has {', '.join(HEAD)}.")
    value = line.fields[name]
    return "" if value is None else str(value)


def _is_llava(path: Path) -> bool:
    try:
        first = next(task_lines(path)).fields
    except UserError:  # no records: of another form
        return False
    return {"question_id", "text"} <= set(first)


def _by_index(path: Path) -> Iterator[TaskLine]:
    for line in task_lines(path):
        try:
            index = int(line.key("question_id")) + TURN * int(line.fields.get("round_id") or 0)
        except ValueError:
            raise line.wrong("question_id or round_id is no whole number", "write MMBench's index.") from None
        yield TaskLine(line.path, line.number, {**line.fields, "index": index})
