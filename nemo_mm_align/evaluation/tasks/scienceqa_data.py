"""ScienceQA's questions: LLaVA's question file with the data set's problems, or the rows of a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.sources import SourceFile, source_file
from nemo_mm_align.evaluation.tasks.task_lines import TaskLine, by_key, task_lines

LETTERS = "ABCDE"
QUESTIONS, PROBLEMS, SPLITS = "llava_{split}_CQM-A.json", "problems.json", "pid_splits.json"
PUBLISHED = {SPLITS: "85c7820b9f136e572579a01dab2c77a7f8140b59211e421fa5182491d45ee3a7"}
"""SHA-256 of data/scienceqa/pid_splits.json of github.com/lupantech/ScienceQA, commit 360b71c."""

YOUNG = frozenset(f"grade{number}" for number in range(1, 7))


@dataclass(frozen=True)
class ScienceQuestion:
    """One question.

    Args:
        text: as a model is asked it, options included, without what follows the options.
        choices: how many options there are.
        answer: the right letter.
        image: where the picture lies; None for a question without one.
        subject, grades: as the data set's tables call them: ``NAT``, ``SOC`` or ``LAN``; ``G1-6`` or ``G7-12``.
        contexts: what it comes with: ``TXT`` (a text), ``IMG``, both, or ``NO``.
    """

    id: str
    text: str
    choices: int
    answer: str
    image: Path | None
    subject: str
    grades: str
    contexts: tuple[str, ...]


def read_scienceqa(data: str, split: str, image_root: str | None, cache: Path) -> list[ScienceQuestion]:
    """Return the questions of a split.

    Args:
        data: folder with ``problems.json``, ``pid_splits.json`` and LLaVA's ``llava_test_CQM-A.json`` (without it the questions
            are put together as LLaVA does), pictures in ``images/<split>/<id>/``; or a dataset's name
            (``derek-thomas/ScienceQA``).
        image_root: folder of the pictures instead, holding ``<id>/image.png``.

    Raises:
        UserError: a file is missing or broken, or a question is not in the split's list.
    """
    folder = Path(data)
    if not (folder / PROBLEMS).is_file():
        if any((folder / name).is_file() for name in (SPLITS, QUESTIONS.format(split=split))):
            raise UserError(f"{folder}: no {PROBLEMS}. Give the folder that holds the data set's files.")
        lines = task_lines(folder, split, cache)
        return [_of_fields(line.fields, f"{split}-{line.number}", _row_text(line), _row_image(line)) for line in lines]
    problems = _json(folder / PROBLEMS)
    ids = _json(folder / SPLITS).get(split)
    if not isinstance(ids, list):
        raise UserError(f"{folder / SPLITS}: has no split {split!r}. It has {', '.join(_json(folder / SPLITS))}.")
    images = Path(image_root) if image_root else folder / "images" / split
    return list(_of_files(folder, split, list(map(str, ids)), problems, images))


def scienceqa_sources(data: str, split: str) -> tuple[SourceFile, ...]:
    """Return the files that are there."""
    paths = [Path(data) / name for name in (QUESTIONS.format(split=split), PROBLEMS, SPLITS)]
    return tuple(source_file(path, PUBLISHED) for path in paths if path.is_file())


def build_text(fields: Mapping[str, Any]) -> str:
    """Return a question as LLaVA's converter puts it together.

    Source: format CQM of github.com/haotian-liu/LLaVA, scripts/convert_sqa_to_llava_base_prompt.py, commit 5a5bda8.
    """
    options = " ".join(f"({letter}) {text}" for letter, text in zip(LETTERS, fields["choices"], strict=False))
    context = str(fields.get("hint") or "").strip() or "N/A"
    text = f"Context: {context}\nQuestion: {fields['question']}\nOptions: {options}\n"
    return text.replace("  ", " ").strip()


def _of_files(
    folder: Path, split: str, ids: list[str], problems: Mapping[str, Any], images: Path
) -> Iterator[ScienceQuestion]:
    path = folder / QUESTIONS.format(split=split)
    asked = by_key(task_lines(path), "id") if path.is_file() else {}
    if len(set(ids)) < len(ids):
        raise UserError(f"{folder / SPLITS}: a question stands twice in split {split!r}. Keep one of the two.")
    for key in ids:
        if key not in problems or (asked and key not in asked):
            raise UserError(f"{path if key in problems else folder / PROBLEMS}: question {key} is not there. Add it.")
        fields = problems[key]
        _check(fields, f"{folder / PROBLEMS}: question {key}")
        text = _asked_text(asked[key]) if asked else build_text(fields)
        image = images / key / str(fields["image"]) if fields.get("image") else None
        yield _of_fields(fields, key, text, image)


def _of_fields(fields: Mapping[str, Any], key: str, text: str, image: Path | None) -> ScienceQuestion:
    contexts = (*(["TXT"] if fields.get("hint") else []), *(["IMG"] if image else []))
    return ScienceQuestion(
        id=key,
        text=text,
        choices=len(fields["choices"]),
        answer=LETTERS[fields["answer"]],
        image=image,
        subject=str(fields.get("subject") or "")[:3].upper(),
        grades="G1-6" if fields.get("grade") in YOUNG else "G7-12",
        contexts=contexts or ("NO",),
    )


def _check(fields: Any, where: str) -> None:
    choices = fields.get("choices") if isinstance(fields, dict) else None
    answer = fields.get("answer") if isinstance(fields, dict) else None
    if (
        not isinstance(choices, list)
        or not 2 <= len(choices) <= len(LETTERS)
        or not isinstance(fields.get("question"), str)
    ):
        raise UserError(f"{where} has no question, or not two to five choices. Give the data set's own file.")
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise UserError(f"{where}: answer={answer!r} is the place of none of its {len(choices)} choices, from 0.")


def _row_text(line: TaskLine) -> str:
    try:
        _check(line.fields, "the record")
    except UserError as error:
        raise line.wrong(str(error)) from None
    return build_text(line.fields)


def _row_image(line: TaskLine) -> Path | None:
    value = line.fields.get("image")
    if value is None or isinstance(value, Path):
        return value
    return line.path.parent / line.text("image")


def _asked_text(line: TaskLine) -> str:
    turns = line.fields.get("conversations")
    first = turns[0].get("value") if isinstance(turns, list) and turns and isinstance(turns[0], dict) else None
    if not isinstance(first, str):
        raise line.wrong("conversations has no first turn with a value", "give LLaVA's own file.")
    return first


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. It comes with the data set.") from None
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error}). Get the file anew.") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no JSON object. Give the data set's own file.")
    return found
