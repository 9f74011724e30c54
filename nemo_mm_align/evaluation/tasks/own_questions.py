"""Questions of one's own: a line per question, in few words or as a whole prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from nemo_mm_align.evaluation.tasks.task_lines import TaskLine, by_key, task_lines
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER, Decoding, PlacedPrompt, Prompt

KEYS = ("id", "question", "image", "images", "system", "reference", "category", "group")


@dataclass(frozen=True)
class OwnQuestion:
    """One question.

    Args:
        prompt: as the model is asked it.
        reference: what a right answer says; "" where nobody said.
        category: for figures of their own; "" for none.
        group: what is drawn together where questions are resampled; "" for itself alone.
    """

    prompt: Prompt
    reference: str = ""
    category: str = ""
    group: str = ""

    @property
    def asked(self) -> str:
        """What the judge reads as the question: after earlier turns, all of them with their speakers."""
        spoken = [turn for turn in self.prompt.turns if turn.role != "system"]
        if len(spoken) == 1:
            return self.prompt.question
        texts = (f"{turn.role.capitalize()}: {turn.content.replace(IMAGE_PLACEHOLDER, '').strip()}" for turn in spoken)
        return "\n\n".join(texts)


def read_own(data: Path, decoding: Decoding) -> dict[str, OwnQuestion]:
    """Return questions by id.

    Args:
        data: records with ``id``, ``question`` and, where there are any, ``image`` or ``images`` (paths relative to the file),
            ``system``, ``reference``, ``category``, ``group``; or prompts, with reference, category and group in ``metadata``.
        decoding: of prompts that say nothing of their own.

    Raises:
        UserError: no such file, or a record that lacks something; the message names file and line.
    """
    return {key: _read(line, key, decoding) for key, line in by_key(task_lines(data), "id").items()}


def _read(line: TaskLine, key: str, decoding: Decoding) -> OwnQuestion:
    if "turns" in line.fields:
        record, metadata = {**line.fields, "id": key}, line.fields.get("metadata") or {}
        if line.fields.get("follow_ups"):
            raise line.wrong("follow_ups are not judged by this task", "make a question of each.")
    else:
        if unknown := set(line.fields) - set(KEYS):
            raise line.wrong(f"unknown key {min(unknown)}", f"a question has {', '.join(KEYS)}.")
        record, metadata = _record(line, key), line.fields
    own = TaskLine(line.path, line.number, metadata)
    extras = {name: own.text(name) for name in ("reference", "category", "group") if metadata.get(name)}
    return OwnQuestion(_prompt(line, record, decoding), **extras)


def _record(line: TaskLine, key: str) -> dict[str, object]:
    turns = [{"role": "user", "content": line.text("question")}]
    if line.fields.get("system"):
        turns.insert(0, {"role": "system", "content": line.text("system")})
    images = line.texts("images") if line.fields.get("images") else ()
    if line.fields.get("image"):
        images = (str(line.fields["image"]), *images)
    category = {"source": line.text("category")} if line.fields.get("category") else {}
    return {"id": key, "images": list(images), "turns": turns, "metadata": category}


def _prompt(line: TaskLine, record: dict[str, object], decoding: Decoding) -> Prompt:
    """Return a record as a prompt with absolute image paths, which stand in front of a question that places none."""
    images = record.get("images") or ()
    if isinstance(images, list | tuple):
        record = {**record, "images": [str(line.beside(str(image), line.path.parent)) for image in images]}
    if not record.get("decoding") and decoding != Decoding():
        record = {**record, "decoding": decoding}
    try:
        placed = PlacedPrompt.model_validate(record)
        return Prompt.model_validate(placed.model_dump())
    except ValidationError as error:
        fault = error.errors()[0]
        where, what = ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
        raise line.wrong(f"{where}: {what}" if where else what, "correct the record.") from None
