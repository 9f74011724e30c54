"""What is to be rated: prompts with their candidates, checked, and as the model reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from nemo_mm_align.answer_provenance import Hashes
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.errors import UserError
from nemo_mm_align.inference.annotate_settings import AnnotateSettings
from nemo_mm_align.inference.derangement import derange
from nemo_mm_align.inference.requests import Key, raise_faults, request_key
from nemo_mm_align.labeling.input_memory import InputMemory
from nemo_mm_align.labeling.inputs import LabelInputs
from nemo_mm_align.labeling.jobs import Job, LabelContext, content_key
from nemo_mm_align.labeling.judge import JudgeReply, JudgeRequest
from nemo_mm_align.labeling.judges.model_head import NAME
from nemo_mm_align.prompts import EncodedSequence, Encoder
from nemo_mm_align.records import prompt_kind


@dataclass(frozen=True)
class AttributeRater:
    """A model with a head as annotations name it: by name, and by all that its ratings depend on."""

    settings: Mapping[str, Any]
    name: str = NAME
    reads_metadata: bool = False

    def judge(self, request: JudgeRequest) -> JudgeReply:
        """Raise `UserError`: it rates in batches."""
        raise UserError(f"{self.name} is not asked prompt by prompt here, but with scripts/annotate.py.")


class JobPictures:
    """The pictures that jobs are about, as they were when the input was checked."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = {key_of(job): job for job in jobs}

    def read(self, keys: Iterable[Key]) -> None:
        """They were read when the input was checked."""

    def of(self, key: Key) -> Hashes:
        """Return their hashes."""
        return self._jobs[key].image_hashes if key in self._jobs else ()

    def names(self, key: Key) -> list[str]:
        """Return their paths."""
        return list(map(str, self._jobs[key].image_paths)) if key in self._jobs else []


def key_of(job: Job) -> Key:
    """Return what tells a job from the others of its run."""
    return request_key(job.prompt.id, None)


def read_jobs(settings: AnnotateSettings, context: LabelContext) -> list[Job]:
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
    jobs = list(inputs.jobs())
    return _shuffled(jobs, settings.seed, context.fingerprint) if settings.shuffle_images else jobs


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


def _shuffled(jobs: Sequence[Job], seed: int, fingerprint: str) -> list[Job]:
    """Each job with the pictures of another one, under a key of its own."""
    others = [jobs[place] for place in derange([job.image_hashes for job in jobs], seed)]
    return [
        replace(
            job,
            image_paths=other.image_paths,
            image_hashes=other.image_hashes,
            key=content_key(fingerprint, job.prompt, other.image_hashes, job.candidates, False),
        )
        for job, other in zip(jobs, others, strict=True)
    ]


def make_samples(jobs: Sequence[Job], encoder: Encoder, max_positions: int) -> list[Sample]:
    """Tokenise every candidate behind its prompt, as in training: one sample per prompt.

    Args:
        max_positions: of the model.

    Raises:
        UserError: candidates that cannot be encoded or do not fit; the message names them.
    """
    samples, faults = [], []
    for job in jobs:
        sequences: list[EncodedSequence] = []
        for number, candidate in enumerate(job.candidates.candidates, start=1):
            try:
                (sequence,) = encoder.encode_answers(job.prompt.turns, [candidate.text], may_be_empty=True)
            except UserError as error:
                faults.append(f"prompt {job.prompt.id!r}, candidate {number}: {error}")
                continue
            if len(sequence) > max_positions:
                longer = f"{len(sequence)} tokens, but the model has {max_positions} positions."
                faults.append(f"prompt {job.prompt.id!r}, candidate {number}: {longer}")
            sequences.append(sequence)
        samples.append(Sample(job.prompt.id, list(job.image_paths), sequences))
    raise_faults(faults, "Correct or remove these prompts or candidates. Nothing was rated.")
    return samples
