"""Dialogues rolled out: a follow-up question is asked once the model has answered the one before.

Each dialogue goes on as soon as its answer has ended, whatever the others are at: rows join and leave one decoding session.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.generator import Generator, gather
from nemo_mm_align.inference.image_check import verify_images
from nemo_mm_align.inference.requests import Assignment, EncodedPrompt, raise_faults
from nemo_mm_align.inference.rows import DecodingRequest
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.session import DecodingSession
from nemo_mm_align.parallel import runtime
from nemo_mm_align.schema.records import Candidate, Prompt, Turn

logger = logging.getLogger(__name__)


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


class _Rolling:
    """A dialogue on its way."""

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue, self.turns = dialogue, list(dialogue.prompt.turns)
        self.answers: list[Candidate] = []
        self.fault = ""

    @property
    def ended(self) -> bool:
        return bool(self.fault) or len(self.answers) > len(self.dialogue.follow_ups)

    def add(self, answer: Candidate) -> None:
        self.answers.append(answer)
        if not self.ended:
            question = self.dialogue.follow_ups[len(self.answers) - 1]
            self.turns += [Turn(role="assistant", content=answer.text), Turn(role="user", content=question)]

    def result(self) -> RolledOut:
        return RolledOut(tuple(self.answers), self.fault)


def roll_out(
    generator: Generator,
    dialogues: Sequence[Dialogue],
    resolve: Callable[[str], Path] = Path,
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
    lengths = _lengths(generator, dialogues)
    verify_images(resolve(path) for dialogue in dialogues for path in dialogue.prompt.images)
    mine = range(runtime.data_parallel_rank(), len(dialogues), runtime.data_parallel_size())
    with tqdm(total=len(dialogues), desc="dialogues", disable=not progress or runtime.rank() != 0) as bar:
        rolled = _roll_out([dialogues[place] for place in mine], generator, max(lengths, default=0), resolve, bar)
        found = gather(dict(zip(mine, rolled, strict=True)))
        bar.update(len(found) - bar.n)
    return [found[place] for place in sorted(found)]


def _lengths(generator: Generator, dialogues: Sequence[Dialogue]) -> list[int]:
    """Return the positions that each dialogue may take."""
    limit = generator.model.model_config.language.max_position_embeddings
    lengths, faults = [], []
    for dialogue in dialogues:
        turns = list(dialogue.prompt.turns)
        for question in dialogue.follow_ups:
            turns += [Turn(role="assistant", content="-"), Turn(role="user", content=question)]
        try:
            ids = generator.encoder.encode_prompt(turns, _complete(generator, dialogue))
        except UserError as error:
            faults.append(f"dialogue {dialogue.prompt.id!r}: {error}")
            continue
        lengths.append(len(ids) + dialogue.sampling.max_new_tokens * (len(dialogue.follow_ups) + 1))
        if lengths[-1] > limit:
            faults.append(f"dialogue {dialogue.prompt.id!r}: {lengths[-1]} tokens, its answers' at most included")
    raise_faults(
        faults, f"The model has {limit} positions: lower max_new_tokens, or correct or remove these dialogues."
    )
    return lengths


def _complete(generator: Generator, dialogue: Dialogue) -> dict[str, float] | None:
    if dialogue.attributes is None:
        return None
    schema = generator.encoder.schema
    if schema is None:
        raise UserError("attributes are given, but there is no attribute schema; set attribute_schema.")
    return schema.complete(dialogue.attributes)


def _roll_out(
    dialogues: Sequence[Dialogue], generator: Generator, length: int, resolve: Callable[[str], Path], bar: tqdm[None]
) -> list[RolledOut]:
    rolled = [_Rolling(dialogue) for dialogue in dialogues]
    waiting, at_work = deque(rolled), dict[int, _Rolling]()
    slots = max(1, min(len(rolled), generator.max_batch_tokens // max(length, 1)))
    with DecodingSession(generator.model, slots, length, generator.encoder.decode_whole, generator.graphs) as session:
        while waiting or session.busy:
            joining: list[_Rolling] = []
            requests = []
            while waiting and len(joining) < session.room:
                item = waiting.popleft()
                try:
                    requests.append(_request(item, generator, length, resolve))
                    joining.append(item)
                except UserError as error:
                    item.fault = str(error)
                    logger.warning("%s", item.fault)
                    bar.update()
            if joining:
                images = generator.load([path for request in requests for path in request.prompt.image_paths])
                at_work.update(zip(session.admit(requests, images), joining, strict=True))
            for progress in session.step():
                if progress.finish_reason is not None:
                    item = at_work.pop(progress.row)
                    item.add(generator.candidate(session.retire(progress.row)))
                    if item.ended:
                        bar.update()
                    else:
                        waiting.append(item)
    return [item.result() for item in rolled]


def _request(item: _Rolling, generator: Generator, length: int, resolve: Callable[[str], Path]) -> DecodingRequest:
    """Return what a dialogue's next question asks of the model."""
    dialogue, turn = item.dialogue, len(item.answers) + 1
    prompt_id = dialogue.prompt.id if turn == 1 else f"{dialogue.prompt.id}\0{turn}"  # random numbers of its own
    try:
        ids = generator.encoder.encode_prompt(item.turns, _complete(generator, dialogue), may_be_empty=True)
    except UserError as error:  # the answer's text is none that a conversation may have
        raise UserError(f"dialogue {dialogue.prompt.id!r}, question {turn}: {error}") from None
    prompt = EncodedPrompt(prompt_id, ids, tuple(resolve(path) for path in dialogue.prompt.images))
    request = DecodingRequest(prompt, dialogue.sampling, frozenset(generator.stop_ids))
    if request.length > length:
        raise UserError(
            f"dialogue {dialogue.prompt.id!r}: its answers take more tokens as text than they had as they were generated, and "
            f"question {turn} does not fit. Lower max_new_tokens."
        )
    return request
