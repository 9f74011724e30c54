"""Typed records of the JSONL files that the stages hand to each other.

    prompts.jsonl      one `Prompt` per line
    candidates.jsonl   one `CandidateSet` per line: the answers sampled for a prompt
    annotations.jsonl  one `Annotation` per line: the prompt, its candidates and their scores
    training sets      one `TrainingExample`, `PreferenceExample`, `LabelledExample`, `RatedAnswers` or `SteeredAnswers` per line

Image paths in a record are relative to the folder of the file they stand in, or absolute. Reading is strict: an unknown
key, a wrong type or a broken JSON line raises `RecordError` with file, line and remedy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from nemo_mm_align.core.atomic import write_lines
from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.core.file_kinds import BOM, check_is_json_lines

IMAGE_PLACEHOLDER = "<image>"
PLACE_IMAGES = "add_image_placeholders"
"""The setting of the stages that read prompts; training data have it in ``data``."""


class Record(BaseModel):
    """Base of every line: unknown keys are refused, free-form extras belong in `metadata`."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Turn(Record):
    """One message. `<image>` in the content marks where the next image of the record stands."""

    role: Literal["system", "user", "assistant"]
    content: str


class Conversation(Record):
    """Turns that alternate and the images that they speak of; base of the records with a conversation."""

    last_speaker: ClassVar[Literal["user", "assistant"]]

    id: str
    images: tuple[str, ...] = ()
    turns: tuple[Turn, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        roles = [turn.role for turn in self.turns]
        body = roles[1:] if roles[:1] == ["system"] else roles
        if body != (["user", "assistant"] * len(body))[: len(body)] or not body or body[-1] != self.last_speaker:
            order = "alternate user, assistant, ... (after an optional system turn)"
            raise ValueError(f"turns must {order} and end with {self.last_speaker}; got {roles}")
        placeholders = 0
        for turn in self.turns:
            count = turn.content.count(IMAGE_PLACEHOLDER)
            if count and turn.role != "user":
                raise ValueError(f"{IMAGE_PLACEHOLDER} stands outside a user turn; move it into the question")
            placeholders += count
        if placeholders != len(self.images):
            option = (
                "" if placeholders else f", or set {PLACE_IMAGES}=true, which puts them in front of the first question"
            )
            raise ValueError(
                f"{placeholders} {IMAGE_PLACEHOLDER} placeholders for {len(self.images)} images; write one per image{option}"
            )
        return self


class Decoding(Record):
    """How a prompt is to be answered where that is not the run's: what a benchmark prescribes. None leaves the run's own."""

    temperature: Annotated[FiniteFloat, Field(ge=0)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None


class Prompt(Conversation):
    """A question, possibly after earlier turns; the last turn is the user's.

    `follow_ups` are asked afterwards, each once the one before is answered (`generate` alone does that); `decoding` is the
    prompt's own.
    """

    last_speaker = "user"

    follow_ups: tuple[str, ...] = ()
    decoding: Decoding | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _follow_ups_are_text(self) -> Self:
        for text in self.follow_ups:
            if not text.strip() or IMAGE_PLACEHOLDER in text:
                raise ValueError(f"a follow-up is text without {IMAGE_PLACEHOLDER}; got {text[:60]!r}")
        return self

    @property
    def question(self) -> str:
        """What the last turn asks, without the places of its images."""
        return self.turns[-1].content.replace(IMAGE_PLACEHOLDER, "").strip()


class PlacedPrompt(Prompt):
    """A `Prompt` whose images, where it names no place for them, come in front of its first question."""

    @model_validator(mode="before")
    @classmethod
    def _place_images(cls, value: Any) -> Any:
        images, turns = (value.get("images"), value.get("turns")) if isinstance(value, dict) else (None, None)
        if not images or not isinstance(images, list | tuple) or not isinstance(turns, list | tuple):
            return value
        if not all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in turns):
            return value
        first = next((place for place, turn in enumerate(turns) if turn.get("role") == "user"), None)
        if first is None or any(IMAGE_PLACEHOLDER in turn["content"] for turn in turns):
            return value
        content = f"{IMAGE_PLACEHOLDER}\n" * len(images) + turns[first]["content"]
        return value | {"turns": [*turns[:first], turns[first] | {"content": content}, *turns[first + 1 :]]}


def prompt_kind(add_image_placeholders: bool) -> type[Prompt]:
    """Return as what a line of prompts is to be read."""
    return PlacedPrompt if add_image_placeholders else Prompt


FinishReason = Literal["stop", "length"]


class Candidate(Record):
    """One sampled answer, or the answers of a dialogue.

    Args:
        text: of the answer; of a dialogue's first.
        finish_reason: its, ``stop`` or ``length`` (cut at the token limit).
        num_tokens: its.
        follow_up_answers: to the prompt's `follow_ups`, as many as could be asked.
        follow_up_finish_reasons, follow_up_num_tokens: theirs, in the same order; empty in files that were written before
            these were kept.
    """

    text: str
    finish_reason: FinishReason = "stop"
    num_tokens: int | None = None
    follow_up_answers: tuple[str, ...] = ()
    follow_up_finish_reasons: tuple[FinishReason, ...] = ()
    follow_up_num_tokens: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _each_or_none(self) -> Candidate:
        for name in ("follow_up_finish_reasons", "follow_up_num_tokens"):
            if (count := len(getattr(self, name))) not in (0, len(self.follow_up_answers)):
                raise ValueError(f"{name} is of {count} answers, follow_up_answers holds {len(self.follow_up_answers)}")
        return self

    @classmethod
    def dialogue(cls, answers: Sequence[Candidate]) -> Candidate:
        """Return the answers of a dialogue, one at least, as one candidate."""
        first, *others = answers
        tokens = [one.num_tokens for one in others if one.num_tokens is not None]
        return cls(
            text=first.text,
            finish_reason=first.finish_reason,
            num_tokens=first.num_tokens,
            follow_up_answers=tuple(one.text for one in others),
            follow_up_finish_reasons=tuple(one.finish_reason for one in others),
            follow_up_num_tokens=tuple(tokens) if len(tokens) == len(others) else (),
        )

    @property
    def total_tokens(self) -> int | None:
        """Tokens of all answers; None where that of one is not known."""
        if self.num_tokens is None or len(self.follow_up_num_tokens) < len(self.follow_up_answers):
            return None
        return self.num_tokens + sum(self.follow_up_num_tokens)

    @property
    def ended(self) -> FinishReason:
        """``length`` where the limit cut one answer or more."""
        return "length" if "length" in (self.finish_reason, *self.follow_up_finish_reasons) else "stop"


class CandidateSet(Record):
    """The answers sampled for one prompt, with the settings that made them."""

    prompt_id: str
    candidates: tuple[Candidate, ...] = Field(min_length=1)
    sampling: dict[str, Any] = Field(default_factory=dict)

    @property
    def asked(self) -> dict[str, float] | None:
        """The attribute values that the answers were asked for, where `sampling` says so."""
        values = self.sampling.get("attributes")
        numbers = isinstance(values, dict) and all(isinstance(value, int | float) for value in values.values())
        return values if numbers else None


class RatedCandidate(Record):
    """A candidate with its scores, one per attribute of the schema, and the judge's reasoning where it gave any.

    `predicted` holds what a model told before it was rounded to a score of the schema, within the attribute's range.
    """

    text: str
    finish_reason: FinishReason = "stop"
    ratings: dict[str, float]
    reasoning: str = ""
    predicted: dict[str, float] | None = None


class Annotation(Record):
    """What a judge said of one prompt's candidates, with the prompt itself, so that builders need no other file.

    `configuration` is the hash of judge, its settings, rubric and schema, which ``<annotations>.settings.json`` spells
    out; `asked` is what the candidates were asked for when they were sampled, if anything; `order` holds the indices of the
    candidates in the order shown to the judge.
    """

    prompt: Prompt
    asked: dict[str, float] | None = None
    candidates: tuple[RatedCandidate, ...] = Field(min_length=1)
    reference_answer: str | None = None
    judge: str
    schema_name: str
    schema_fingerprint: str
    configuration: str = ""
    request_key: str = ""
    order: tuple[int, ...] = ()


RecordType = TypeVar("RecordType", bound=Record)


def _describe(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        parts.append(f"{where}: {item['msg']}" if where else item["msg"].removeprefix("Value error, "))
    return "; ".join(parts)


def parse_line(kind: type[RecordType], text: str | bytes, path: str | Path, line: int) -> RecordType:
    """Parse one JSONL line into `kind`, or raise `RecordError`. A byte order mark at its start is passed over."""
    try:
        mark = BOM if isinstance(text, bytes) else BOM.decode()
        return kind.model_validate_json(text.removeprefix(mark))  # type: ignore[arg-type]
    except ValidationError as error:
        remedy = f"each line must be a JSON object of a {kind.__name__} record ({', '.join(kind.model_fields)})."
        raise RecordError(path, line, _describe(error), remedy) from None


def read_records(path: str | Path, kind: type[RecordType]) -> Iterator[RecordType]:
    """Yield the records of a JSONL file; blank lines are skipped.

    Raises:
        UserError: the file is missing or holds no record.
        RecordError: a line is not a valid record.
    """
    return (record for _, record in numbered_records(path, kind))


def numbered_records(path: str | Path, kind: type[RecordType]) -> Iterator[tuple[int, RecordType]]:
    """Yield the records as `read_records` does, with the numbers of their lines."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. Give the path of a JSONL file with {kind.__name__} records.")
    check_is_json_lines(path, kind.__name__)
    count = 0
    with path.open("rb") as file:  # bytes: text that is not UTF-8 is then an error with a line number too
        for number, text in enumerate(file, start=1):
            if text.removeprefix(BOM).strip():
                count += 1
                yield number, parse_line(kind, text, path, number)
    if count == 0:
        raise UserError(f"{path}: the file is empty; it must hold one {kind.__name__} record per line.")


def write_records(path: str | Path, records: Iterable[Record]) -> int:
    """Write records to a new file beside `path` and rename it into place; return how many were written."""
    return write_lines(path, (record.model_dump_json(exclude_defaults=True) for record in records))


class RecordAppender:
    """Append records to a JSONL file, each line flushed to disk; opening removes the torn last line of a killed run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab+")
        self._drop_torn_line()

    def _drop_torn_line(self) -> None:
        self._file.seek(0, os.SEEK_END)
        size = self._file.tell()
        position = size
        while position > 0:
            start = max(0, position - 65536)
            self._file.seek(start)
            newline = self._file.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position < size:
            self._file.truncate(position)
        self._file.seek(0, os.SEEK_END)

    def append(self, record: Record | dict[str, Any]) -> None:
        """Write one line and flush it to disk."""
        text = record.model_dump_json(exclude_defaults=True) if isinstance(record, Record) else json.dumps(record)
        self._file.write(text.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> RecordAppender:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
