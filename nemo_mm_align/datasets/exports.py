"""Formats that a training set can be written in.

    records    this project's JSONL (`records.py`)
    trl        JSONL of TRL's conversational vision data sets: messages + images, prompt + chosen + rejected + images, or
               prompt + completion + label + images
    llava_dpo  the trainers of the alignment paper's authors: a JSON list of LLaVA conversations, or of DPO records

A steering line, which other trainers know nothing of, then stands in the text. All of them are read back by `sources`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nemo_mm_align.core.atomic import write_lines
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import Example, LabelledExample, PreferenceExample, RatedAnswers, SteeredAnswers
from nemo_mm_align.schema.prompts import with_attributes
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER, Turn, write_records

_RATED = "rated answers, which format=records alone holds"
_STEERED = "answers with weights, which format=records alone holds"
SPEAKERS = {"user": "human", "assistant": "gpt"}


class Export:
    """Writes examples as our own records; base of the other formats.

    Args:
        schema: of the examples' attributes.
        path: file to write; the examples' relative image paths are relative to its folder.
    """

    def __init__(self, schema: AttributeSchema, path: Path) -> None:
        self.schema, self.path = schema, path

    def unfit(self, example: Example) -> str | None:
        """Return why the format cannot hold an example, or None where it can."""
        return None

    def write(self, examples: Iterable[Example]) -> None:
        """Write all examples; the file appears when it is complete."""
        write_records(self.path, examples)

    def warnings(self) -> list[str]:
        """Return what users of the written file should know."""
        return []

    def turns(self, example: Example) -> list[Turn]:
        """Return the conversation with the steering line in it, if there are attributes."""
        if example.attributes is None:
            return list(example.turns)
        return with_attributes(example.turns, self.schema, example.attributes)


class TrlExport(Export):
    """Content is a list of image and text parts; images are absolute paths, which `datasets` casts to pictures."""

    def __init__(self, schema: AttributeSchema, path: Path) -> None:
        super().__init__(schema, path)
        self.inline = 0
        self.odd_pairs = 0

    def unfit(self, example: Example) -> str | None:
        """Return why TRL has no form for an example."""
        return _several(example) or _flip_line(example)

    def write(self, examples: Iterable[Example]) -> None:
        """Write one JSON object per line."""
        write_lines(self.path, (json.dumps(self._record(example), ensure_ascii=False) for example in examples))

    def warnings(self) -> list[str]:
        """Return what TRL does otherwise than this project."""
        found = []
        if self.inline:
            found.append(
                f"{self.inline} turns have text right behind {IMAGE_PLACEHOLDER}: chat templates write a line break there."
            )
        if self.odd_pairs:
            found.append(
                f"{self.odd_pairs} pairs have no image or several: DPOTrainer of TRL 0.24 takes one image per pair, "
                "that of 1.16 any number."
            )
        return found

    def _record(self, example: Example) -> dict[str, Any]:
        messages = [self._message(turn) for turn in self.turns(example)]
        folder = os.path.abspath(self.path.parent)
        images = [os.path.join(folder, image) for image in example.images]
        if isinstance(example, LabelledExample):
            completion = [self._message(Turn(role="assistant", content=example.answer))]
            record = {"id": example.id, "prompt": messages, "completion": completion, "label": example.label}
            return {**record, "images": images, "score": example.score, "metadata": example.metadata}
        if not isinstance(example, PreferenceExample):
            return {"id": example.id, "messages": messages, "images": images, "metadata": example.metadata}
        self.odd_pairs += len(images) != 1
        answers = {
            side: [self._message(Turn(role="assistant", content=text))]
            for side, text in (("chosen", example.chosen), ("rejected", example.rejected))
        }
        return {"id": example.id, "prompt": messages, **answers, "images": images, **_scores(example)}

    def _message(self, turn: Turn) -> dict[str, Any]:
        parts: list[dict[str, str]] = []
        for place, text in enumerate(turn.content.split(IMAGE_PLACEHOLDER)):
            if place:
                parts.append({"type": "image"})
                self.inline += not text.startswith("\n")
                text = text.removeprefix("\n")
            if text:
                parts.append({"type": "text", "text": text})
        return {"role": turn.role, "content": parts}


class LlavaExport(Export):
    """One image per conversation and no system turn; of a pair, one question. Images are relative to the file."""

    def unfit(self, example: Example) -> str | None:
        """Return why the authors' trainers cannot read an example."""
        if reason := _several(example):
            return reason
        if isinstance(example, LabelledExample):
            return "a labelled answer (format=llava_dpo)"
        if any(turn.role == "system" for turn in example.turns):
            return "a system turn (format=llava_dpo)"
        if len(example.images) > 1:
            return "several images (format=llava_dpo)"
        if isinstance(example, PreferenceExample) and len(example.turns) > 1:
            return "a pair with earlier turns (format=llava_dpo)"
        return _flip_line(example)

    def write(self, examples: Iterable[Example]) -> None:
        """Write a JSON list, one record per line."""
        write_lines(self.path, _json_list(map(self._record, examples)))

    def _record(self, example: Example) -> dict[str, Any]:
        record: dict[str, Any] = {"id": example.id}
        if example.images:
            record["image"] = example.images[0]
        messages = [{"from": SPEAKERS[turn.role], "value": turn.content} for turn in self.turns(example)]
        if not isinstance(example, PreferenceExample):
            return {**record, "conversations": messages, "metadata": example.metadata}
        answers = {"chosen": example.chosen, "rejected": example.rejected}
        record |= {"question": messages[0]} | {side: {"from": "gpt", "value": text} for side, text in answers.items()}
        return record | _scores(example)


def _several(example: Example) -> str | None:
    return _RATED if isinstance(example, RatedAnswers) else _STEERED if isinstance(example, SteeredAnswers) else None


def _flip_line(example: Example) -> str | None:
    has_one = isinstance(example, PreferenceExample) and example.flip_attributes is not None
    return "a flip line, which this format has no place for (method.flips=false)" if has_one else None


EXPORTS = {"records": Export, "trl": TrlExport, "llava_dpo": LlavaExport}


def export_named(name: str, schema: AttributeSchema, path: Path) -> Export:
    """Return the writer of a format; raise `UserError` naming the known ones."""
    if name not in EXPORTS:
        raise UserError(f"format={name} is unknown; there are {', '.join(EXPORTS)}.")
    return EXPORTS[name](schema, path)


def _scores(example: PreferenceExample) -> dict[str, Any]:
    ratings = {"chosen_ratings": example.chosen_ratings, "rejected_ratings": example.rejected_ratings}
    return {
        "chosen_score": example.chosen_score,
        "rejected_score": example.rejected_score,
        **{key: values for key, values in ratings.items() if values is not None},
        "metadata": example.metadata,
    }


def _json_list(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a JSON list without holding it in memory."""
    start = "["
    for record in records:
        yield start + json.dumps(record, ensure_ascii=False)
        start = ","
    yield "]"
