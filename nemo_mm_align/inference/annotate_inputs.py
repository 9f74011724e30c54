"""What is to be rated: prompts with their candidates, checked, and as the model reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.inference.annotate_settings import AnnotateSettings
from nemo_mm_align.inference.derangement import derange
from nemo_mm_align.inference.requests import Key, raise_faults, request_key
from nemo_mm_align.labeling.input_memory import InputMemory
from nemo_mm_align.labeling.inputs import LabelInputs
from nemo_mm_align.labeling.items import Item, LabelContext, content_key
from nemo_mm_align.labeling.judge import JudgeReply, JudgeRequest
from nemo_mm_align.labeling.judges.model_head import NAME
from nemo_mm_align.schema.answer_provenance import Hashes
from nemo_mm_align.schema.prompts import EncodedSequence, Encoder
from nemo_mm_align.schema.records import prompt_kind


@dataclass(frozen=True)
class AttributeRater:
    """A model with a head as annotations name it: by name, and by all that its ratings depend on."""

    settings: Mapping[str, Any]
    name: str = NAME
    reads_metadata: bool = False

    def judge(self, request: JudgeRequest) -> JudgeReply:
        """Raise `UserError`: it rates in batches."""
        raise UserError(f"{self.name} is not asked prompt by prompt here, but with scripts/annotate.py.")


class ItemPictures:
    """The pictures that items are about, as they were when the input was checked."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = {key_of(item): item for item in items}

    def read(self, keys: Iterable[Key]) -> None:
        """They were read when the input was checked."""

    def of(self, key: Key) -> Hashes:
        """Return their hashes."""
        return self._items[key].image_hashes if key in self._items else ()

    def names(self, key: Key) -> list[str]:
        """Return their paths."""
        return list(map(str, self._items[key].image_paths)) if key in self._items else []


def key_of(item: Item) -> Key:
    """Return what tells an item from the others of its run."""
    return request_key(item.prompt.id, None)


def read_items(settings: AnnotateSettings, context: LabelContext) -> list[Item]:
    """Read and check prompts, candidates and pictures, and return what is to be rated, in the order of the prompts.

    Pictures of prompts that `out` rates already are not decoded again.

    Raises:
        UserError: naming file and line of the faults, pictures among them, or that pictures cannot be shuffled.
    """
    inputs = LabelInputs(
        settings.prompts,
        settings.candidates,
        settings.image_root,
        memory=InputMemory(settings.out),
        prompt_kind=prompt_kind(settings.add_image_placeholders),
    )
    rated = _rated_keys(settings.out) if not settings.shuffle_images else frozenset()
    inputs.check(context, rated.__contains__)
    items = list(inputs.items())
    return _shuffled(items, settings.seed, context.fingerprint) if settings.shuffle_images else items


def _rated_keys(out: Path) -> frozenset[str]:
    """Content keys of the lines of an annotations file; what is no such line is found out where the file is opened."""
    if not out.is_file():
        return frozenset()
    found = set()
    with out.open("rb") as lines:
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):
                found.add(str(from_json(line)["request_key"]))
    return frozenset(found)


def _shuffled(items: Sequence[Item], seed: int, fingerprint: str) -> list[Item]:
    """Each item with the pictures of another one, under a key of its own."""
    others = [items[place] for place in derange([item.image_hashes for item in items], seed)]
    return [
        replace(
            item,
            image_paths=other.image_paths,
            image_hashes=other.image_hashes,
            key=content_key(fingerprint, item.prompt, other.image_hashes, item.candidates, False),
        )
        for item, other in zip(items, others, strict=True)
    ]


def make_samples(items: Sequence[Item], encoder: Encoder, max_positions: int) -> list[Sample]:
    """Tokenise every candidate behind its prompt, as in training: one sample per prompt.

    Args:
        max_positions: of the model.

    Raises:
        UserError: candidates that cannot be encoded or do not fit; the message names them.
    """
    samples, faults = [], []
    for item in items:
        sequences: list[EncodedSequence] = []
        for number, candidate in enumerate(item.candidates.candidates, start=1):
            try:
                (sequence,) = encoder.encode_answers(item.prompt.turns, [candidate.text], may_be_empty=True)
            except UserError as error:
                faults.append(f"prompt {item.prompt.id!r}, candidate {number}: {error}")
                continue
            if len(sequence) > max_positions:
                longer = f"{len(sequence)} tokens, but the model has {max_positions} positions."
                faults.append(f"prompt {item.prompt.id!r}, candidate {number}: {longer}")
            sequences.append(sequence)
        samples.append(Sample(item.prompt.id, list(item.image_paths), sequences))
    raise_faults(faults, "Correct or remove these prompts or candidates. Nothing was rated.")
    return samples
