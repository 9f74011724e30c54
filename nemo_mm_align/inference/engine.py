"""One decoding session for many clients: requests wait in a bounded queue, join between steps, and are told of each token.

`Engine.run` is the loop of the rank that leads its replica; the others `follow` (see `LedSession`). `submit` and `cancel` may
be called from any thread. Listeners are called from the loop's thread and had better be quick: nobody decodes meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch

from nemo_mm_align.inference.engine_loop import EngineLoop, QueueFull
from nemo_mm_align.inference.led_session import LedSession
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.rows import DecodingRequest, GeneratedAnswer, Progress, TokenLogprobs

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
"""Between steps without work, by which the other ranks know that this one lives."""
GATHER_SECONDS = 0.01
"""That an idle engine waits at most for requests that are on their way: what comes together is computed together."""


@dataclass(frozen=True)
class AnswerStep:
    """What a step has done for one answer.

    Args:
        sample: which of the request's answers.
        token: the new one; None for a stop token.
        logprobs: where they were asked for.
        answer: all of it, with its last step.
    """

    sample: int
    token: int | None
    logprobs: TokenLogprobs | None = None
    answer: GeneratedAnswer | None = None


class Listener(Protocol):
    """Who is told what becomes of a request."""

    def stepped(self, ticket: Ticket, steps: Sequence[AnswerStep]) -> None:
        """Take what one step has done for the request's answers."""

    def failed(self, ticket: Ticket, error: BaseException) -> None:
        """Take that nothing more will come."""


@dataclass(eq=False)
class Ticket:
    """A request on its way.

    Attributes:
        submitted, admitted, first_token: seconds of `time.monotonic`; None where it has not come so far.
        cached: positions of the prompt that were kept from earlier ones and not computed; known with the first token.
    """

    request: DecodingRequest
    images: ImageBatch | None
    listener: Listener
    submitted: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    first_token: float | None = None
    cached: int = 0
    rows: dict[int, int] = field(default_factory=dict)  # of the session, to the request's answers

    @property
    def answers(self) -> int:
        """How many are asked for."""
        return self.request.sampling.num_samples


@dataclass(frozen=True)
class Figures:
    """How the engine stands.

    Args:
        running, waiting: requests.
        cache_usage: share of the slots that answers lie in.
        prefix_queries, prefix_hits: positions of all prompts so far, and how many of these needed not be computed.
        image_queries, image_hits: pictures in what had to be computed, and how many of these needed not be encoded.
    """

    running: int
    waiting: int
    cache_usage: float
    prefix_queries: int
    prefix_hits: int
    image_queries: int = 0
    image_hits: int = 0


class Engine(EngineLoop):
    """Answers requests; one thread is in `run`.

    Args:
        session: of the leading rank, not entered yet.
        waiting: requests that may wait.
        prefill_positions: of prompts that are computed together; one longer prompt is computed alone. What is decoding waits
            for that long.
    """

    def __init__(self, session: LedSession, waiting: int, prefill_positions: int = 4096) -> None:
        super().__init__(session)
        self._session, self._most, self._positions = session, waiting, prefill_positions
        self._waiting: deque[Ticket] = deque()
        self._joining: list[Ticket] = []  # neither waiting any more nor running so far
        self._just_joined = False
        self._cancelled: list[Ticket] = []
        self._running: dict[int, Ticket] = {}
        self._coming = 0

    @property
    def length(self) -> int:
        """Positions of an answer with its prompt, at most."""
        return self._session.length

    @property
    def slots(self) -> int:
        """Answers at a time."""
        return self._session.slots

    @property
    def idle(self) -> bool:
        """Whether no request waits or runs."""
        with self._changed:
            return not self._waiting and not self._joining and not self._running

    @property
    def figures(self) -> Figures:
        """How it stands now."""
        with self._changed:
            running, waiting = set(self._running.values()), len(self._waiting) + len(self._joining)
            used = len(self._running) / self.slots
        return Figures(len(running), waiting, used, *self._session.reused, *self._session.pictures_reused)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Say that within the block a request will be submitted soon, if it is a good one."""
        with self._changed:
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                self._changed.notify()

    def submit(self, request: DecodingRequest, images: ImageBatch | None, listener: Listener) -> Ticket:
        """Have a request answered; `listener` is told from now on.

        Args:
            images: of this prompt, on the host.

        Raises:
            QueueFull: too many wait.
            Ending: the engine takes nothing in any more.
            ValueError: it will never fit.
        """
        ticket = Ticket(request, images, listener)
        if request.length > self.length:
            raise ValueError(f"{request.length} positions, and room for {self.length}")
        if ticket.answers > self.slots:
            raise ValueError(f"{ticket.answers} answers at once, and room for {self.slots}")
        with self._changed:
            self._refuse_where_it_ends()
            free = self.slots - len(self._running)  # who comes between two steps waits for a free slot as well
            if len(self._waiting) >= self._most + free:
                raise QueueFull(f"{self._most} requests wait already")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up; its listener may still be told what was on its way. One that has ended is no matter."""
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            else:
                self._cancelled.append(ticket)
                self._changed.notify()

    def _turn(self) -> bool:
        """One step, if there is anything to be done; return whether there will be more.

        Requests join in every other turn, so that answers on their way wait for the prompts of one turn at a time.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or self._cancelled or self._running or self._ending, HEARTBEAT_SECONDS
            )
            if self._ending and not self._waiting and not self._running:
                return False
            self._gather()
            cancelled, self._cancelled = self._cancelled, []
            wait = self._just_joined and self._running
            self._joining = [] if wait else self._next(self._room_without(cancelled))
            self._just_joined = bool(self._joining)
        for ticket in cancelled:
            self._forget(ticket)
        if self._joining:
            self._admit(list(self._joining))
        try:
            progress = self._session.step()
        except torch.OutOfMemoryError as error:
            self._survive(error)
            return True
        self._tell(progress)
        return True

    def _gather(self) -> None:
        """Wait a moment for those who come with the first one, where nobody's answer waits for that; the lock is held."""
        if self._waiting and not self._running:
            left = self._waiting[0].submitted + GATHER_SECONDS - time.monotonic()
            self._changed.wait_for(lambda: not self._coming or len(self._waiting) >= self.slots, left)

    def _room_without(self, cancelled: Sequence[Ticket]) -> int:
        return self._session.room + sum(len(ticket.rows) for ticket in set(cancelled))

    def _next(self, room: int) -> list[Ticket]:
        """Take those from the queue that are first in it and fit; nobody overtakes one that does not fit so far."""
        joining, positions = list[Ticket](), 0
        while self._waiting:
            ticket = self._waiting[0]
            positions += len(ticket.request.prompt.ids)
            if ticket.answers > room or (joining and positions > self._positions):
                break
            room -= ticket.answers
            joining.append(self._waiting.popleft())
        return joining

    def _admit(self, joining: Sequence[Ticket]) -> None:
        try:
            images = ImageBatch.joined([ticket.images for ticket in joining])
            rows = iter(self._session.admit([ticket.request for ticket in joining], images))
        except Exception as error:  # nothing has been taken in: what one request is like ends nobody else's
            if len(joining) == 1:
                with self._changed:
                    self._joining.remove(joining[0])
                self._say(joining[0], error)
            else:
                for ticket in joining:  # one of them is at fault
                    self._admit([ticket])
            return
        now = time.monotonic()
        with self._changed:
            for ticket in joining:
                ticket.admitted, ticket.images = now, None
                ticket.rows = {next(rows): sample for sample in range(ticket.answers)}
                self._running.update(dict.fromkeys(ticket.rows, ticket))
                self._joining.remove(ticket)

    def _tell(self, progress: Sequence[Progress]) -> None:
        steps: dict[Ticket, list[AnswerStep]] = {}
        for one in progress:
            ticket = self._running[one.row]
            sample = ticket.rows[one.row]
            if ticket.first_token is None:
                ticket.cached = self._session.cached(one.row)
            answer = self._retire(ticket, one.row) if one.finish_reason is not None else None
            steps.setdefault(ticket, []).append(AnswerStep(sample, one.token, one.logprobs, answer))
        now = time.monotonic()
        for ticket, news in steps.items():
            ticket.first_token = ticket.first_token or now
            try:
                ticket.listener.stepped(ticket, news)
            except Exception as error:
                logger.exception("whoever asked could not take an answer")
                self._forget(ticket)
                self._say(ticket, error)

    def _retire(self, ticket: Ticket, row: int) -> GeneratedAnswer:
        with self._changed:
            del self._running[row]
            del ticket.rows[row]
        return self._session.retire(row)

    def _forget(self, ticket: Ticket) -> None:
        for row in list(ticket.rows):
            self._retire(ticket, row)

    def _survive(self, error: torch.OutOfMemoryError) -> None:
        """Go on without the prompts that there was no memory for; raise where it was not theirs.

        Whoever is told gets the error without its traceback, which holds on to the tensors of the pass.
        """
        lost = dict.fromkeys(self._running[row] for row in self._session.lost)
        if not self._session.is_whole or not lost:
            raise error
        logger.warning("%d requests are given up: %s", len(lost), str(error).splitlines()[0])
        for ticket in lost:
            self._forget(ticket)
            self._say(ticket, error.with_traceback(None))

    def _give_up(self, error: BaseException) -> None:
        with self._changed:
            self._fault = error
            lost = dict.fromkeys([*self._running.values(), *self._joining, *self._waiting])
            self._joining = []
            self._waiting.clear()
            self._running.clear()
        for ticket in lost:
            self._say(ticket, error)

    def _say(self, ticket: Ticket, error: BaseException) -> None:
        try:
            ticket.listener.failed(ticket, error)
        except Exception:
            logger.exception("whoever asked could not be told of a failure")
