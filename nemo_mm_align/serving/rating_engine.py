"""One model with a head for many clients: what waits is rated in batches, and who asked gets a future.

`RatingEngine.run` is the loop of the rank that leads its replica; the others `follow` (see `LedRater`). `submit` and `cancel`
may be called from any thread. The outer shape is that of `inference.engine.Engine`.

Shapes: A answers of a sample, T outputs of the head.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.inference.engine import HEARTBEAT_SECONDS, Figures
from nemo_mm_align.inference.engine_loop import EngineLoop, QueueFull
from nemo_mm_align.serving.led_rater import LedRater, Pixels


@dataclass(eq=False)
class RatingTicket:
    """A request on its way.

    Attributes:
        future: becomes the outputs of each sample, fp32 [A, T]; cancelling it gives the request up.
        submitted, admitted: seconds of `time.monotonic`; None where it has not come so far.
    """

    samples: Sequence[Sample]
    pixels: Pixels
    future: Future[list[Tensor]] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    outputs: dict[int, Tensor] = field(default_factory=dict)  # by the sample's place

    @property
    def answers(self) -> int:
        """How many are to be rated."""
        return sum(len(sample.sequences) for sample in self.samples)


@dataclass(frozen=True)
class _Waiting:
    """One sample of a request."""

    ticket: RatingTicket
    place: int
    length: int

    @property
    def sample(self) -> Sample:
        return self.ticket.samples[self.place]


class RatingEngine(EngineLoop):
    """Rates answers; one thread is in `run`.

    Args:
        rater: of the leading rank.
        waiting: answers that may wait.
    """

    def __init__(self, rater: LedRater, waiting: int) -> None:
        super().__init__(rater)
        self._rater, self._most = rater, waiting
        self._waiting: deque[_Waiting] = deque()
        self._running: list[_Waiting] = []

    @property
    def length(self) -> int:
        """Positions of a conversation, at most."""
        return self._rater.length

    @property
    def slots(self) -> int:
        """Conversations of that length that are rated together."""
        return max(1, self._rater.max_batch_tokens // self.length)

    @property
    def waiting(self) -> int:
        """Answers that may wait, and that one request may have."""
        return self._most

    @property
    def idle(self) -> bool:
        """Whether no request waits or runs."""
        with self._changed:
            return not self._waiting and not self._running

    @property
    def figures(self) -> Figures:
        """How it stands now: requests; nothing is kept from one to the next."""
        with self._changed:
            running = {one.ticket for one in self._running}
            waiting = {one.ticket for one in self._waiting} - running
        return Figures(len(running), len(waiting), 0.0, 0, 0)

    def submit(self, samples: Sequence[Sample], pixels: Pixels) -> RatingTicket:
        """Have answers rated; several samples of a request may be rated in different batches.

        Args:
            samples: at least one; one sequence per answer.
            pixels: of all their pictures, by the names that `Sample.image_paths` holds.

        Raises:
            QueueFull: too many answers wait.
            Ending: the engine takes nothing in any more.
            ValueError: it will never fit.
        """
        ticket = RatingTicket(samples, pixels)
        self._check(ticket)
        entries = [_Waiting(ticket, place, self._rater.row_length(one)) for place, one in enumerate(samples)]
        with self._changed:
            self._refuse_where_it_ends()
            if ticket.answers + sum(len(one.sample.sequences) for one in self._waiting) > self._most:
                raise QueueFull(f"no room for {ticket.answers} answers: {self._most} may wait")
            self._waiting.extend(entries)
            self._changed.notify()
        ticket.future.add_done_callback(lambda future: self._drop(ticket) if future.cancelled() else None)
        return ticket

    def _check(self, ticket: RatingTicket) -> None:
        longest = max(len(sequence) for sample in ticket.samples for sequence in sample.sequences)
        if longest > self.length:
            raise ValueError(f"{longest} positions, and room for {self.length}")
        if ticket.answers > self._most:
            raise ValueError(f"{ticket.answers} answers at once, and room for {self._most}")

    def cancel(self, ticket: RatingTicket) -> None:
        """Give a request up; one that has ended is no matter."""
        ticket.future.cancel()

    def _drop(self, ticket: RatingTicket) -> None:
        with self._changed:
            self._waiting = deque(one for one in self._waiting if one.ticket is not ticket)

    def _turn(self) -> bool:
        """One batch, if there is anything to be done; return whether there will be more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ending, HEARTBEAT_SECONDS)
            if self._ending and not self._waiting:
                return False
            self._running = batch = self._joining()
        if batch:
            self._rate(batch)
        else:
            self._rater.beat()
        with self._changed:
            self._running = []
        return True

    def _joining(self) -> list[_Waiting]:
        """Take those from the queue that are first in it and fit into one batch."""
        batch, longest = list[_Waiting](), 0
        while self._waiting:
            longest = max(longest, self._waiting[0].length)
            if batch and longest * (len(batch) + 1) > self._rater.max_batch_tokens:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _rate(self, batch: Sequence[_Waiting]) -> None:
        now = time.monotonic()
        pixels: dict[str, NDArray[numpy.float32]] = {}
        for one in batch:
            one.ticket.admitted = one.ticket.admitted or now
            pixels |= {str(name): one.ticket.pixels[str(name)] for name in one.sample.image_paths}
        try:
            outputs = self._rater.rate([one.sample for one in batch], pixels)
        except torch.OutOfMemoryError as error:
            self._survive(batch, error.with_traceback(None))  # which holds on to the tensors of the pass
            return
        for one, outputs_AT in zip(batch, outputs, strict=True):
            self._tell(one, outputs_AT)

    def _tell(self, one: _Waiting, outputs_AT: Tensor) -> None:
        ticket = one.ticket
        ticket.outputs[one.place] = outputs_AT
        if len(ticket.outputs) == len(ticket.samples) and ticket.future.set_running_or_notify_cancel():
            ticket.future.set_result([ticket.outputs[place] for place in range(len(ticket.samples))])

    def _survive(self, batch: Sequence[_Waiting], error: torch.OutOfMemoryError) -> None:
        """Go on without what there is no memory for, one by one; raise where other ranks are in the middle of it."""
        if not self._rater.is_whole:
            raise error
        if len(batch) == 1:
            self._drop(batch[0].ticket)
            _fail(batch[0].ticket, error)
            return
        for one in batch:
            self._rate([one])

    def _give_up(self, error: BaseException) -> None:
        with self._changed:
            self._fault = error
            lost = {one.ticket for one in (*self._waiting, *self._running)}
            self._waiting.clear()
            self._running = []
        for ticket in lost:
            _fail(ticket, error)


def _fail(ticket: RatingTicket, error: BaseException) -> None:
    if not ticket.future.done() and ticket.future.set_running_or_notify_cancel():
        ticket.future.set_exception(error)
