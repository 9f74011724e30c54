"""POPE's answer files, and LLaVA's: from answers to questions and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_mm_align.core.errors import UserError, shorten
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.tasks.llava_files import is_llava, llava_answers
from nemo_mm_align.evaluation.tasks.pope_data import SPLITS, PopeQuestion
from nemo_mm_align.evaluation.tasks.task_lines import TaskLine, task_lines


def read_pope_answers(path: Path, questions: Sequence[PopeQuestion]) -> dict[str, tuple[str, ...]] | None:
    """Return answers by the ids of their questions; None for a file of another form.

    Args:
        path: JSONL of ``{question, answer}``, in the order of the questions of one split or of several after one another, or of
            LLaVA's ``{question_id, text}`` in any order; or a folder with one file of the first kind per split.

    Raises:
        UserError: answers that are not those to the questions, and ids that do not tell splits apart.
    """
    if path.is_dir():
        files = [file for split in SPLITS for file in sorted(path.glob(f"*{split}*.json*"))]
        return _by_order([line for file in files for line in task_lines(file)], path, questions) if files else None
    if is_llava(path):
        return _by_number(llava_answers(path), path, questions)
    lines = list(task_lines(path)) if _has_answers(path) else []
    return _by_order(lines, path, questions) if lines else None


def pope_answer_files(name: str, scored: Sequence[ScoredAnswer], questions: Sequence[PopeQuestion]) -> dict[str, str]:
    """Return one file per split, in the order of its questions, as POPE's evaluate.py reads it."""
    answers = {one.prompt_id: one.answer for one in scored if not one.failed}
    lines: dict[str, list[str]] = {}
    for one in questions:
        if one.id in answers:
            record = {"question": one.text.split("\n")[0], "answer": answers[one.id]}
            lines.setdefault(one.split, []).append(json.dumps(record, ensure_ascii=False) + "\n")
    return {f"{name}_pope_{split}.json": "".join(texts) for split, texts in lines.items()}


def _has_answers(path: Path) -> bool:
    try:
        first = next(task_lines(path)).fields
    except UserError:  # no records: of another form
        return False
    return {"question", "answer"} <= set(first) and "prompt_id" not in first


def _by_number(
    answers: Mapping[str, tuple[str, ...]], path: Path, questions: Sequence[PopeQuestion]
) -> dict[str, tuple[str, ...]]:
    ids: dict[str, str] = {}
    for one in questions:
        if one.number in ids and one.number in answers:
            raise UserError(
                f"{path}: question_id {one.number} is {ids[one.number]} and {one.id}. Its ids are those of LLaVA's question "
                "file: task.data=llava_pope_test.jsonl, with the labels' folder as task.annotations."
            )
        ids[one.number] = one.id
    if unknown := next((number for number in answers if number not in ids), None):
        raise UserError(f"{path}: question_id {unknown} is none of the questions. Give the data that were answered.")
    return {ids[number]: texts for number, texts in answers.items()}


def _by_order(lines: Sequence[TaskLine], path: Path, questions: Sequence[PopeQuestion]) -> dict[str, tuple[str, ...]]:
    """Take whole splits from the front, each the one whose questions the lines repeat: a gap would shift all that follows."""
    rest = {split: [one for one in questions if one.split == split] for split in SPLITS}
    found: dict[str, tuple[str, ...]] = {}
    place = 0
    while place < len(lines):
        if not rest:
            _raise_mismatch(lines, place, "", path)
        split = max(rest, key=lambda name: _agreeing(lines[place:], rest[name]))
        asked = rest.pop(split)
        same = _agreeing(lines[place:], asked)
        if not asked or same < len(asked):
            _raise_mismatch(lines, place + same, asked[same].text if same < len(asked) else "", path)
        found |= {one.id: (line.text("answer"),) for one, line in zip(asked, lines[place:], strict=False)}
        place += len(asked)
    return found


def _agreeing(lines: Sequence[TaskLine], asked: Sequence[PopeQuestion]) -> int:
    """Return how many questions at the front are the same; what follows a question's first line is a suffix of the prompt."""
    pairs = zip(lines, asked, strict=False)
    agree = (line.text("question").strip().split("\n")[0] == one.text.split("\n")[0] for line, one in pairs)
    count = 0
    for same in agree:
        if not same:
            break
        count += 1
    return count


def _raise_mismatch(lines: Sequence[TaskLine], place: int, wanted: str, path: Path) -> None:
    remedy = "answers stand in the order of a split's questions, none left out."
    if place >= len(lines):
        raise UserError(f"{path}: ends after {place} answers; {shorten(wanted, 80)!r} comes next. Remedy: {remedy}")
    asked = shorten(lines[place].text("question"), 80)
    raise lines[place].wrong(f"answers {asked!r}" + (f", expected {shorten(wanted, 80)!r}" if wanted else ""), remedy)
