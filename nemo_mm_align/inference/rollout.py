"""Dialogues rolled out: a follow-up question is asked once the model has answered the one before.

Each dialogue goes on as soon as its answer has ended, whatever the others are at: rows join and leave one decoding session.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.generator import Generator, gather
from nemo_mm_align.inference.image_check import verify_images
from nemo_mm_align.inference.own_decoding import LIMIT
from nemo_mm_align.inference.requests import Assignment, EncodedPrompt, raise_faults
from nemo_mm_align.inference.rows import DecodingRequest
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.session import DecodingSession
from nemo_mm_align.parallel import runtime
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Candidate, Prompt, Turn

logger = logging.getLogger(__name__)

STEPS = 32
"""Of decoding, after which the replicas bring together what has ended: what a killed run loses at most."""


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
    """A dialogue on its way, and its place among all."""

    def __init__(self, place: int, dialogue: Dialogue) -> None:
        self.place, self.dialogue, self.turns = place, dialogue, list(dialogue.prompt.turns)
        self.answers: list[Candidate] = []

    @property
    def ended(self) -> bool:
        return len(self.answers) > len(self.dialogue.follow_ups)

    def add(self, answer: Candidate) -> None:
        self.answers.append(answer)
        if not self.ended:
            question = self.dialogue.follow_ups[len(self.answers) - 1]
            self.turns += [Turn(role="assistant", content=answer.text), Turn(role="user", content=question)]


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
    check_dialogues(dialogues, generator.encoder, generator.model.model_config.language.max_position_embeddings)
    verify_images(resolve(path) for dialogue in dialogues for path in dialogue.prompt.images)
    found: dict[int, RolledOut] = {}
    for ended in stream_dialogues(generator, dialogues, resolve, progress=progress):
        found.update(ended)
    return [found[place] for place in sorted(found)]


def stream_dialogues(
    generator: Generator,
    dialogues: Sequence[Dialogue],
    resolve: Callable[[str], Path] = Path,
    done: frozenset[int] = frozenset(),
    progress: bool = True,
) -> Iterator[dict[int, RolledOut]]:
    """Yield dialogues as they end, by index: on rank 0 those of all replicas, elsewhere nothing.

    Between two steps of this iterator every rank has made as many steps of decoding; all ranks must go through it to its end.

    Args:
        generator, resolve, progress: as for `roll_out`.
        dialogues: that `check_dialogues` has passed.
        done: indices not to roll out.
    """
    wanted = [place for place in range(len(dialogues)) if place not in done]
    if not wanted:
        return
    limit = generator.model.model_config.language.max_position_embeddings
    length = max(check_dialogues(dialogues, generator.encoder, limit))  # of all: a resumed run repeats the first one's
    mine = {place: dialogues[place] for place in wanted[runtime.data_parallel_rank() :: runtime.data_parallel_size()]}
    slots = max(1, min(len(mine), generator.max_batch_tokens // length))
    with (
        tqdm(total=len(wanted), desc="dialogues", disable=not progress or runtime.rank() != 0) as bar,
        DecodingSession(generator.model, slots, length, generator.encoder.decode_whole, generator.graphs) as session,
    ):
        rollout = _Rollout(mine, generator, session, resolve)
        while _anywhere(rollout.busy):
            ended = gather(rollout.advance(STEPS))
            for rolled in ended.values():
                if rolled.fault:
                    logger.warning("%s", rolled.fault)
            bar.update(len(ended))
            yield ended


def _anywhere(here: bool) -> bool:
    """Whether something holds on any rank; all ranks call this."""
    flag = torch.tensor(float(here), device=runtime.device())
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag)


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


class _Rollout:
    """A replica's dialogues in its decoding session; those that go on come before those that have not begun."""

    def __init__(
        self,
        dialogues: Mapping[int, Dialogue],
        generator: Generator,
        session: DecodingSession,
        resolve: Callable[[str], Path],
    ) -> None:
        self._generator, self._session, self._resolve = generator, session, resolve
        self._waiting = deque(_Rolling(place, dialogue) for place, dialogue in dialogues.items())
        self._at_work: dict[int, _Rolling] = {}

    @property
    def busy(self) -> bool:
        return bool(self._waiting) or self._session.busy

    def advance(self, steps: int) -> dict[int, RolledOut]:
        """Make so many steps of decoding, fewer where nothing is left; return what has ended."""
        ended: dict[int, RolledOut] = {}
        for _ in range(steps):
            if not self.busy:
                break
            self._admit(ended)
            for progress in self._session.step():
                if progress.finish_reason is not None:
                    self._go_on(progress.row, ended)
        return ended

    def _admit(self, ended: dict[int, RolledOut]) -> None:
        joining, requests = list[_Rolling](), list[DecodingRequest]()
        while self._waiting and len(joining) < self._session.room:
            item = self._waiting.popleft()
            try:
                requests.append(_request(item, self._generator, self._session.length, self._resolve))
                joining.append(item)
            except UserError as error:
                ended[item.place] = RolledOut(tuple(item.answers), str(error))
        if joining:
            images = self._generator.load([path for request in requests for path in request.prompt.image_paths])
            self._at_work.update(zip(self._session.admit(requests, images), joining, strict=True))

    def _go_on(self, row: int, ended: dict[int, RolledOut]) -> None:
        item = self._at_work.pop(row)
        item.add(self._generator.candidate(self._session.retire(row)))
        if item.ended:
            ended[item.place] = RolledOut(tuple(item.answers))
        else:
            self._waiting.appendleft(item)


def _request(item: _Rolling, generator: Generator, length: int, resolve: Callable[[str], Path]) -> DecodingRequest:
    """Return what a dialogue's next question asks of the model."""
    dialogue, turn = item.dialogue, len(item.answers) + 1
    prompt_id = dialogue.prompt.id if turn == 1 else f"{dialogue.prompt.id}\0{turn}"  # random numbers of its own
    try:
        ids = generator.encoder.encode_prompt(item.turns, _complete(generator.encoder, dialogue), may_be_empty=True)
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
