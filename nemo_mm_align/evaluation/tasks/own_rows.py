"""Questions of one's own with their right answers, as a line per question or as whole prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from nemo_mm_align.core.errors import UserError, check_keys
from nemo_mm_align.evaluation.tasks.task_lines import TaskLine, by_key, task_lines
from nemo_mm_align.schema.records import Decoding, PlacedPrompt, Prompt

Scoring = Literal["exact", "contains", "choice"]
SCORINGS = ("exact", "contains", "choice")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

TRUTH = ("answer", "scoring", "choices", "category", "group")
"""What an answer is scored by: fields of a question, or keys of a prompt's metadata."""

KEYS = ("id", "question", "image", "images", "system", *TRUTH)
JUDGED = "has a rubric: it is for a judge. Ask one with task=own_rubric, or take the rubric out of this file."


@dataclass(frozen=True)
class Truth:
    """What a right answer is.

    Args:
        accepted: texts that are right; of `choice`, the one right letter.
        options: texts by letters, of `choice`.
    """

    accepted: tuple[str, ...]
    scoring: Scoring
    options: Mapping[str, str]
    category: str
    group: str


def read_own_rows(data: str, split: str, scoring: Scoring, decoding: Decoding, cache: Path) -> list[Prompt]:
    """Return questions as prompts that carry in their metadata what they are scored by.

    Args:
        data: records with ``question``, ``answer`` (a text or a list of them) and, where there are any, ``id``, ``image`` or
            ``images`` (paths relative to the file), ``system``, ``choices``, ``scoring``, ``category``, ``group``; or prompts
            with these in ``metadata``. A question's choices are shown behind it, a prompt shows its own.
        scoring: of those that name none.
        decoding: of those that have none.

    Raises:
        UserError: no such file, or a record that lacks something; the message names file and line.
    """
    lines = by_key(_with_ids(task_lines(Path(data), split, cache)), "id")
    prompts = []
    for line in lines.values():
        if "rubric" in line.fields or "rubric" in _metadata(line):
            raise line.wrong(JUDGED)
        prompt = _prompt(line, decoding)
        try:
            truth_in(prompt, scoring)
        except UserError as error:
            raise line.wrong(str(error)) from None
        prompts.append(prompt)
    return prompts


def truth_in(prompt: Prompt, scoring: Scoring) -> Truth:
    """Return what a prompt's metadata say of its right answer; `UserError` where they do not."""
    found = prompt.metadata
    where = f"prompt {prompt.id}"
    kind = found.get("scoring") or scoring
    if kind not in SCORINGS:
        raise UserError(f"{where}: scoring={kind!r} is none of {', '.join(SCORINGS)}.")
    accepted = _accepted(where, found.get("answer"))
    choices = found.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(one, str) and one.strip() for one in choices):
        raise UserError(f"{where}: choices is no list of texts.")
    options = dict(zip(LETTERS, choices, strict=False))
    if kind == "choice":
        accepted = [_letter(where, accepted, options)]
    return Truth(tuple(accepted), kind, options, str(found.get("category") or ""), str(found.get("group") or ""))


def _accepted(where: str, answer: Any) -> list[str]:
    given = answer if isinstance(answer, list) else [answer]
    texts = [str(one) for one in given if isinstance(one, str | int | float) and not isinstance(one, bool)]
    if not texts or len(texts) < len(given) or not all(one.strip() for one in texts):
        raise UserError(f"{where}: answer={answer!r} is no text and no list of texts. Write what is right.")
    return texts


def _letter(where: str, accepted: list[str], options: Mapping[str, str]) -> str:
    """Return the letter of the right choice, which is named by its text or its letter."""
    if len(options) < 2 or len(accepted) != 1 or len(set(options.values())) < len(options):
        raise UserError(f"{where}: scoring=choice needs two or more different choices and one answer.")
    by_text = {text: letter for letter, text in options.items()}
    letter = by_text.get(accepted[0]) or (accepted[0] if accepted[0] in options else "")
    if not letter:
        raise UserError(f"{where}: answer={accepted[0]!r} is none of the choices, nor one of their letters.")
    return letter


def _with_ids(lines: Iterator[TaskLine]) -> Iterator[TaskLine]:
    for line in lines:
        yield TaskLine(line.path, line.number, {"id": f"{line.path.stem}-{line.number}", **line.fields})


def _metadata(line: TaskLine) -> dict[str, Any]:
    found = line.fields.get("metadata") or {}
    if not isinstance(found, dict):
        raise line.wrong("metadata is no object")
    return found


def _prompt(line: TaskLine, decoding: Decoding) -> Prompt:
    """Return a record as a prompt with absolute image paths, its images before a question that places none."""
    record = dict(line.fields) if "turns" in line.fields else _record(line)
    record["id"] = line.key("id")
    images = record.get("images") or ()
    if isinstance(images, list | tuple):
        record["images"] = [str((line.path.parent / str(image)).absolute()) for image in images]
    if not record.get("decoding") and decoding != Decoding():
        record["decoding"] = decoding
    try:
        return Prompt.model_validate(PlacedPrompt.model_validate(record).model_dump())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise line.wrong(f"{where}: {fault['msg']}" if where else fault["msg"], "correct the record.") from None


def _record(line: TaskLine) -> dict[str, Any]:
    fields = line.fields
    try:
        check_keys(fields, KEYS)
    except UserError as error:
        raise line.wrong(str(error).replace("configuration has no key", "no field is called")) from None
    question = line.text("question")
    if fields.get("choices"):
        question = "\n".join([question, *(f"{a}. {b}" for a, b in zip(LETTERS, line.texts("choices"), strict=False))])
    turns = [{"role": "user", "content": question}]
    if fields.get("system"):
        turns.insert(0, {"role": "system", "content": line.text("system")})
    images = [*([fields["image"]] if fields.get("image") else []), *(fields.get("images") or [])]
    metadata = {name: fields[name] for name in TRUTH if fields.get(name) is not None}
    return {"images": images, "turns": turns, "metadata": metadata}
