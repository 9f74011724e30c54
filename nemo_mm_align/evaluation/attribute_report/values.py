"""Values of answers from files of annotations or rated answers, and the answers that several files have in common.

Shapes: N answers, T attributes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.datasets.rated import known_ratings
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import RatedAnswers
from nemo_mm_align.schema.records import Annotation, numbered_records

Array = NDArray[np.float64]
Key = tuple[str, str]
"""Prompt id and text of an answer, without blanks at its ends."""


@dataclass(frozen=True)
class ValueFile:
    """What a file says of answers.

    Attributes:
        path: of the file.
        values: per answer one value for each attribute of the schema, nan where there is none; equal texts of a prompt
            have their mean.
    """

    path: Path
    values: Mapping[Key, tuple[float, ...]]


@dataclass(frozen=True)
class Answers:
    """Answers that all files rate.

    Attributes:
        keys: in order of prompts.
        prompts_N: which prompt an answer belongs to, from 0.
        left_out: answers of the first file that another one does not rate.
    """

    keys: tuple[Key, ...]
    prompts_N: NDArray[np.int64]
    left_out: int

    @property
    def prompts(self) -> int:
        """How many prompts there are."""
        return int(self.prompts_N.max()) + 1

    def table(self, file: ValueFile) -> Array:
        """Return a file's values, [N, T]."""
        return np.array([file.values[key] for key in self.keys])


def read_values(path: Path, schema: AttributeSchema) -> ValueFile:
    """Read a file of `Annotation` or of `RatedAnswers` records; what a model told before it was rounded counts as told.

    Raises:
        UserError: no such file, or another kind of record.
        RecordError: a line is broken, of another schema, or has a value that is none of the schema's.
    """
    found: dict[Key, list[tuple[float, ...]]] = {}
    for line, prompt_id, text, ratings in _answers(path, schema):
        try:
            known = known_ratings(ratings, schema)
        except UserError as error:
            raise RecordError(path, line, f"prompt {prompt_id}: {error}", "correct the value, or rate again.") from None
        row = tuple(known.get(name, math.nan) for name in schema.names)
        found.setdefault((prompt_id, text.strip()), []).append(row)
    return ValueFile(path, {key: _mean(rows) for key, rows in found.items()})


def _mean(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Mean of the known values; nan where there is none."""
    columns = ([value for value in column if not math.isnan(value)] for column in zip(*rows, strict=True))
    return tuple(sum(column) / len(column) if column else math.nan for column in columns)


def _answers(path: Path, schema: AttributeSchema) -> Iterator[tuple[int, str, str, Mapping[str, float]]]:
    """Yield line, prompt, text and values of every answer."""
    if _holds_rated_answers(path):
        for line, record in numbered_records(path, RatedAnswers):
            for answer in record.answers:
                yield line, record.id, answer.text, answer.attributes
        return
    for line, annotation in numbered_records(path, Annotation):
        if annotation.schema_fingerprint != schema.fingerprint:
            problem = f"was rated by schema {annotation.schema_name!r} ({annotation.schema_fingerprint}), not by {schema.name!r}"
            raise RecordError(path, line, f"{problem} ({schema.fingerprint})", "choose it with attribute_schema=...")
        for candidate in annotation.candidates:
            if candidate.text.strip():
                yield line, annotation.prompt.id, candidate.text, candidate.predicted or candidate.ratings


def _holds_rated_answers(path: Path) -> bool:
    """Whether the first record has ``answers``; a file that cannot be read is its reader's to name."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        record = json.loads(first.decode("utf-8-sig"))
    except ValueError:
        return False
    return isinstance(record, dict) and "answers" in record


def in_common(files: Sequence[ValueFile]) -> Answers:
    """Return the answers that all files rate; raise `UserError` where there is none."""
    first, *others = files
    keys = sorted(key for key in first.values if all(key in other.values for other in others))
    if not keys:
        missing = next(other for other in others if not set(first.values) & set(other.values))
        raise UserError(
            f"{missing.path} has no answer in common with {first.path}: prompts go by their ids, answers by their texts. Give "
            "files of the same prompts and candidates."
        )
    places = {name: place for place, name in enumerate(dict.fromkeys(prompt for prompt, _ in keys))}
    prompts = np.array([places[prompt] for prompt, _ in keys])
    return Answers(tuple(keys), prompts, len(first.values) - len(keys))
