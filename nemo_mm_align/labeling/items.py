"""The unit of work: a prompt with its candidates, its content key, and the order in which a judge sees them."""

from __future__ import annotations

import functools
import heapq
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_mm_align.core.hashing import hash_json
from nemo_mm_align.labeling.judge import Judge, JudgeRequest
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import CandidateSet, Prompt

KEY_VERSION = 1


@dataclass(frozen=True)
class LabelContext:
    """What all requests of a run share: who judges, on which attributes, and whether it also answers itself."""

    judge: Judge
    schema: AttributeSchema
    want_reference: bool

    @property
    def configuration(self) -> dict[str, Any]:
        """Judge, its settings and what it goes by in the attribute schema, as recorded in the ledger."""
        return {
            "key_version": KEY_VERSION,
            "judge": self.judge.name,
            "settings": dict(self.judge.settings),
            "want_reference": self.want_reference,
            "attribute_schema": self.schema.judged(),
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of `configuration`: part of every content key, so that answers to another rubric never mix."""
        return digest(self.configuration)


@dataclass(frozen=True)
class Item:
    """A prompt to label. `key` is the hash of everything that the judgement depends on, `image_hashes` included."""

    prompt: Prompt
    candidates: CandidateSet
    image_paths: tuple[Path, ...]
    key: str
    image_hashes: tuple[str, ...] = ()

    @functools.cached_property
    def order(self) -> tuple[int, ...]:
        """Indices of the candidates in the order shown: random against position bias, fixed by the key."""
        indices = list(range(len(self.candidates.candidates)))
        random.Random(self.key).shuffle(indices)
        return tuple(indices)

    def request(self, context: LabelContext) -> JudgeRequest:
        """Return the question for the judge, candidates in `order`."""
        texts = tuple(self.candidates.candidates[index].text for index in self.order)
        hashes = self.image_hashes
        return JudgeRequest(self.prompt, texts, self.image_paths, context.schema, context.want_reference, hashes)


def digest(value: Any) -> str:
    """Return a hash of a JSON value (32 hex digits)."""
    return hash_json(value, 32)


def content_key(
    fingerprint: str,
    prompt: Prompt,
    image_hashes: Sequence[str],
    candidates: CandidateSet,
    with_metadata: bool,
    repeat: int = 0,
) -> str:
    """Return the key of a request: hash of configuration, turns, image bytes and candidate texts.

    The prompt's id and the images' paths are no part of it: the same question under another name is not asked again.

    Args:
        fingerprint: of the `LabelContext`.
        image_hashes: of the bytes of each image.
        with_metadata: whether the judge reads the prompt's metadata, which then decide its answer too.
        repeat: above 0 the same question is asked once more under a key, and hence an order, of its own.
    """
    material: dict[str, Any] = {
        "context": fingerprint,
        "turns": [[turn.role, turn.content] for turn in prompt.turns],
        "images": list(image_hashes),
        "candidates": [candidate.text for candidate in candidates.candidates],
    }
    if with_metadata:
        material["metadata"] = prompt.metadata
    if repeat:
        material["repeat"] = repeat
    return digest(material)


def draw_prompts(ids: Iterable[str], count: int, seed: int) -> set[str]:
    """Draw prompts at random; which ones, depends on their ids and the seed alone, not on the rest of the file."""
    return set(heapq.nsmallest(count, ids, key=lambda prompt_id: digest([seed, prompt_id])))


def in_file_order(shown: Sequence[Any], order: Sequence[int]) -> list[Any]:
    """Return what a judge said of the candidates as shown, in the order of the candidates file."""
    result = [None] * len(order)
    for position, index in enumerate(order):
        result[index] = shown[position]
    return result
