"""Prompts with answers to other prompts: how far a policy has moved on such is the reference point of KTO."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

import numpy as np

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.sample import Sample, SampleStore
from nemo_mm_align.schema.prompts import EncodedSequence

MISMATCHED = "kl"
"""Role of such a sequence."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """Where an answer stands, and what tells its prompt (with its images) and its tokens from others."""

    sample: int
    sequence: int
    prompt: bytes
    tokens: bytes


def mismatched_samples(samples: Sequence[Sample], max_length: int, hash_of: Callable[[Path], str]) -> SampleStore:
    """Return for every sample its own prompts, each followed by the answer to another one.

    Which one, the samples' ids and contents alone decide, wherever their images lie. It is another record's and has other
    tokens; it answers another prompt where there is one. An answer that would make a sequence longer than `max_length` is cut
    there, as TRL cuts it.

    Args:
        samples: with loss on the last answers alone.
        max_length: of a sequence, in tokens.
        hash_of: maps an image to the hash of its bytes.

    Returns:
        As many samples in their order: the i-th has a sequence for each one of the i-th sample, its id and its images.

    Raises:
        UserError: an answer finds no other one.
    """
    answers = sorted(
        _answers(samples, hash_of), key=lambda answer: answer.prompt
    )  # stable: of a prompt in the order of the file
    found: list[list[EncodedSequence]] = [[] for _ in range(len(samples))]
    start = 0
    for _, group in groupby(answers, key=lambda answer: answer.prompt):
        own = list(group)
        for answer in own:
            sample, other = samples[answer.sample], _other(answer, answers, start, len(own), samples[answer.sample].id)
            given = samples[other.sample].sequences[other.sequence]
            found[answer.sample].append(_joined(sample.sequences[answer.sequence], given, max_length))
        start += len(own)
    return SampleStore(
        [
            Sample(sample.id, list(sample.image_paths), sequences, roles=(MISMATCHED,) * len(sequences))
            for sample, sequences in zip(samples, found, strict=True)
        ]
    )


def _answers(samples: Sequence[Sample], hash_of: Callable[[Path], str]) -> Iterator[_Answer]:
    for place, sample in enumerate(samples):
        images = repr([hash_of(path) for path in sample.image_paths]).encode()
        for number, sequence in enumerate(sample.sequences):
            end = sequence.prompt_length
            yield _Answer(place, number, _digest(images, sequence.ids[:end]), _digest(b"", sequence.ids[end:]))


def _digest(head: bytes, ids: Sequence[int]) -> bytes:
    return hashlib.sha256(head + np.array(ids, np.int32).tobytes()).digest()[:16]


def _other(answer: _Answer, answers: Sequence[_Answer], start: int, count: int, sample_id: str) -> _Answer:
    """Return an answer to another prompt than those `count` from `start` on; one to the same prompt where there is no other."""
    total = len(answers)
    others = range(start + count, start + total)  # modulo `total`
    name = f"{sample_id}:{answer.sequence}".encode()
    first = int.from_bytes(hashlib.sha256(name).digest()[:8], "big") % len(others) if others else 0
    for place in chain(others[first:], others[:first], range(start, start + count)):
        other = answers[place % total]
        if other.sample != answer.sample and other.tokens != answer.tokens:
            return other
    raise UserError(
        f"record {sample_id}: no other record has another answer, so that no mismatched one can be made of its prompt. Give "
        "more records, or set recipe.loss_type=apo_zero_unpaired, which needs none."
    )


def _joined(own: EncodedSequence, given: EncodedSequence, max_length: int) -> EncodedSequence:
    prompt, answer = own.ids[: own.prompt_length], given.ids[given.prompt_length :]
    answer = answer[: max_length - len(prompt)]
    return EncodedSequence(prompt + answer, [False] * len(prompt) + [True] * len(answer))
