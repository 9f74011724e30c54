"""Dialogues rolled out: a follow-up question is asked once the model has answered the one before.

Each dialogue goes on as soon as its answer has ended, whatever the others are at (`refill`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.generator import Generator
from nemo_mm_align.inference.image_check import verify_images
from nemo_mm_align.inference.own_decoding import LIMIT
from nemo_mm_align.inference.refill import Job
from nemo_mm_align.inference.requests import Assignment, EncodedPrompt, raise_faults
from nemo_mm_align.inference.rows import DecodingRequest, GeneratedAnswer
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Candidate, Prompt, Turn

logger = logging.getLogger(__name__)

Resolve = Callable[[str], Path]
"""A record's image path to the file."""


@dataclass(frozen=True)
class Dialogue:
    """Questions of which each later one follows the model's answer to the one before.

    Args:
        prompt: what is asked first, possibly after turns that are given.
        follow_ups: what is asked then, in order.
        sampling: how every answer is sampled; one sample.
        attributes: values that every answer is asked to have; None asks for nothing.
    """

    prompt: Prompt
    follow_ups: tuple[str, ...]
    sampling: SamplingSettings
    attributes: Assignment = None

    def __post_init__(self) -> None:
        if self.sampling.num_samples != 1:
            raise UserError("a dialogue has one answer to each of its questions: set num_samples=1.")


@dataclass(frozen=True)
class RolledOut:
    """A dialogue's answers, to as many questions as could be asked; where that is not all, `fault` says why."""

    answers: tuple[Candidate, ...]
    fault: str = ""


class _Rolling(Job[RolledOut]):
    """A dialogue on its way."""

    samples = 1

    def __init__(self, place: int, dialogue: Dialogue, length: int, generator: Generator, resolve: Resolve) -> None:
        self.place, self.length, self.answers = place, length, len(dialogue.follow_ups) + 1
        self.pictures = tuple(resolve(path) for path in dialogue.prompt.images)
        self._dialogue, self._generator = dialogue, generator
        self._turns, self._said, self._fault = list(dialogue.prompt.turns), list[Candidate](), ""

    @property
    def result(self) -> RolledOut:
        """What has become of the dialogue."""
        return RolledOut(tuple(self._said), self._fault)

    def ask(self) -> DecodingRequest | None:
        """Return the next question; None where it cannot be asked."""
        try:
            return self._request()
        except UserError as error:
            self._fault = str(error)
            return None

    def take(self, answers: Sequence[GeneratedAnswer]) -> bool:
        """Take an answer; the next question follows it."""
        self._said += map(self._generator.candidate, answers)
        if len(self._said) == self.answers:
            return False
        question = self._dialogue.follow_ups[len(self._said) - 1]
        said = Turn(role="assistant", content=self._said[-1].text)
        self._turns += [said, Turn(role="user", content=question)]
        return True

    def _request(self) -> DecodingRequest:
        dialogue, encoder, turn = self._dialogue, self._generator.encoder, len(self._said) + 1
        prompt_id = dialogue.prompt.id if turn == 1 else f"{dialogue.prompt.id}\0{turn}"  # random numbers of its own
        try:
            ids = encoder.encode_prompt(self._turns, _complete(encoder, dialogue), may_be_empty=True)
        except UserError as error:  # the answer's text is none that a conversation may have
            raise UserError(f"dialogue {dialogue.prompt.id!r}, question {turn}: {error}") from None
        prompt = EncodedPrompt(prompt_id, ids, self.pictures)
        request = DecodingRequest(prompt, dialogue.sampling, frozenset(self._generator.stop_ids))
        if request.length > self.length:
            raise UserError(
                f"dialogue {dialogue.prompt.id!r}: its answers take more tokens as text than they had as they were "
                f"generated, and question {turn} does not fit. Lower max_new_tokens."
            )
        return request


def roll_out(
    generator: Generator,
    dialogues: Sequence[Dialogue],
    resolve: Resolve = Path,
    progress: bool = True,
) -> list[RolledOut]:
    """Answer every question of every dialogue; every rank calls this with the same arguments.

    A first answer is the one that `Generator.generate` gives. What a dialogue's answers are does not depend on the other
    dialogues. One that cannot be carried on (an answer that no conversation may have, or that takes too many tokens as text)
    ends with the answers that it has.

    Args:
        generator: of the model.
        dialogues: with distinct ids of their prompts.
        resolve: maps a record's image path to the file.
        progress: show a bar on the first rank.

    Returns:
        For each dialogue what became of it, on rank 0; an empty list elsewhere.

    Raises:
        UserError: dialogues that cannot be encoded or may not fit into the model's positions; an image that cannot be read.
    """
    jobs = dialogue_jobs(generator, dict(enumerate(dialogues)), resolve)
    verify_images(path for job in jobs for path in job.pictures)
    found: dict[int, RolledOut] = {}
    for ended in generator.run(jobs, progress):
        warn_of_faults(ended.values())
        found.update(ended)
    return [found[place] for place in sorted(found)]


def dialogue_jobs(generator: Generator, dialogues: Mapping[int, Dialogue], resolve: Resolve) -> list[Job[RolledOut]]:
    """Return dialogues as what `Generator.run` takes.

    Args:
        generator, resolve: as for `roll_out`.
        dialogues: by their places among all jobs.

    Raises:
        UserError: dialogues that cannot be encoded or may not fit into the model's positions.
    """
    limit = generator.model.model_config.language.max_position_embeddings
    lengths = check_dialogues(list(dialogues.values()), generator.encoder, limit)
    return [
        _Rolling(place, dialogue, min(limit, length + _slack(dialogue)), generator, resolve)
        for (place, dialogue), length in zip(dialogues.items(), lengths, strict=True)
    ]


def _slack(dialogue: Dialogue) -> int:
    """Positions for earlier answers that take more tokens as text than they had as they were generated: an eighth of these."""
    return dialogue.sampling.max_new_tokens * len(dialogue.follow_ups) // 8


def warn_of_faults(ended: Iterable[RolledOut]) -> None:
    """Log why dialogues have ended early."""
    for rolled in ended:
        if rolled.fault:
            logger.warning("%s", rolled.fault)


def check_dialogues(
    dialogues: Sequence[Dialogue], encoder: Encoder, max_positions: int, limits: str = LIMIT
) -> list[int]:
    """Return the positions that each dialogue may take; `limits` are the settings that bound their answers, for the message.

    Raises:
        UserError: dialogues that cannot be encoded, or may take more positions than the model has; the message names them.
    """
    lengths, faults = [], []
    for dialogue in dialogues:
        turns = list(dialogue.prompt.turns)
        for question in dialogue.follow_ups:
            turns += [Turn(role="assistant", content="-"), Turn(role="user", content=question)]
        try:
            ids = encoder.encode_prompt(turns, _complete(encoder, dialogue))
        except UserError as error:
            faults.append(f"dialogue {dialogue.prompt.id!r}: {error}")
            continue
        lengths.append(len(ids) + dialogue.sampling.max_new_tokens * (len(dialogue.follow_ups) + 1))
        if lengths[-1] > max_positions:
            faults.append(f"dialogue {dialogue.prompt.id!r}: {lengths[-1]} tokens, its answers' at most included")
    raise_faults(
        faults, f"The model has {max_positions} positions: lower {limits}, or correct or remove these dialogues."
    )
    return lengths


def _complete(encoder: Encoder, dialogue: Dialogue) -> dict[str, float] | None:
    if dialogue.attributes is None:
        return None
    if encoder.schema is None:
        raise UserError("attributes are given, but there is no attribute schema; set attribute_schema.")
    return encoder.schema.complete(dialogue.attributes)
