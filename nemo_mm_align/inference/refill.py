"""Continuous batching: answers leave a decoding session as they end, and the next prompts join it.

A slot of a session has room for the longest prompt and answer in it. So jobs come in groups of similar length, and each group
has a session of its own, with as many slots as the memory allows at its length.

An admission interrupts decoding by a pass over the prompts, hence some join together; while they wait for each other, slots
are empty. docs/BENCHMARKS.md has what was measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Generic, Self, TypeVar

from nemo_mm_align.inference.images_ahead import ImagesAhead
from nemo_mm_align.inference.rows import DecodingRequest, GeneratedAnswer
from nemo_mm_align.inference.session import DecodingSession

JOINING = 0.125
"""Share of the slots that is free before anybody joins those at work."""
TOGETHER = 8192
"""Positions of prompts, padding included, that are computed together; one longer prompt is computed alone."""
SPREAD = 2
"""How many times as long as the shortest the longest job of a group is."""

Result = TypeVar("Result")
OpenSession = Callable[[int, int], DecodingSession]
"""A session of so many slots, of so many positions each."""


class Job(ABC, Generic[Result]):
    """Something that the model is asked: one question, or several of which each follows the answer to the one before.

    Attributes:
        place: among all jobs of a run.
        length: positions that it takes at most, prompt and answer.
        samples: answers to each question, side by side.
        answers: to all questions.
        pictures: of the next question.
    """

    place: int
    length: int
    samples: int
    answers: int
    pictures: tuple[Path, ...]

    @abstractmethod
    def ask(self) -> DecodingRequest | None:
        """Return what is asked next; None: it cannot be asked, and the job ends."""

    @abstractmethod
    def take(self, answers: Sequence[GeneratedAnswer]) -> bool:
        """Take the answers to what was asked; return whether there is more to ask."""

    @property
    @abstractmethod
    def result(self) -> Result:
        """What a job has come to that has ended."""


def plan_groups(lengths: Sequence[int], rows: Sequence[int], max_batch_tokens: int, replicas: int) -> list[list[int]]:
    """Put jobs of similar length together, the longest first; return places in `lengths`.

    Args:
        lengths: positions that each job takes at most.
        rows: answers at a time of each job.
        max_batch_tokens: positions of a session on one replica, which its cache grows with.
        replicas: data-parallel size. A group that leaves slots empty on some replica takes in shorter jobs, however short.
    """
    groups: list[list[int]] = []
    longest = taken = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        is_full = bool(groups) and taken >= slots_of(longest, max_batch_tokens) * replicas
        if not groups or (is_full and lengths[place] * SPREAD < longest):
            groups.append([])
            longest, taken = lengths[place], 0
        groups[-1].append(place)
        taken += rows[place]
    return groups


def slots_of(length: int, max_batch_tokens: int) -> int:
    """Return how many slots of so many positions there may be, at least one."""
    return max(1, max_batch_tokens // length)


class _Group(Generic[Result]):
    """The jobs of one session: waiting, at work, ended."""

    def __init__(
        self,
        jobs: Sequence[Job[Result]],
        following: Sequence[Job[Result]],
        session: DecodingSession,
        images: ImagesAhead,
    ) -> None:
        self._session, self._images, self._waiting, self._following = session, images, deque(jobs), following
        self._rows: dict[int, tuple[Job[Result], list[int]]] = {}  # by each row: its job, and all rows of that
        self._answers: dict[int, GeneratedAnswer] = {}

    @property
    def busy(self) -> bool:
        return bool(self._waiting) or self._session.busy

    def step(self) -> Iterator[Job[Result]]:
        """Let jobs join and make one step of the session; yield what has ended."""
        yield from self._admit()
        for progress in self._session.step():
            if progress.finish_reason is not None:
                yield from self._end(progress.row)

    def _admit(self) -> Iterator[Job[Result]]:
        room = self._session.room
        if not self._waiting or room == 0 or (self._session.busy and room < JOINING * self._session.slots):
            return
        jobs, requests = list[Job[Result]](), list[DecodingRequest]()
        while self._waiting and room > 0:
            asked = self._waiting[0].ask()
            if asked is None:
                yield self._waiting.popleft()
                continue
            longest = max(len(request.prompt.ids) for request in (*requests, asked))
            if requests and longest * (len(requests) + 1) > TOGETHER:
                break
            jobs.append(self._waiting.popleft())
            requests.append(asked)
            room -= jobs[-1].samples
        if requests:
            self._join(jobs, requests)

    def _join(self, jobs: Sequence[Job[Result]], requests: Sequence[DecodingRequest]) -> None:
        images = self._images.batch([path for request in requests for path in request.prompt.image_paths])
        rows = iter(self._session.admit(requests, images, may_wait=True))
        for job in jobs:
            own = list(islice(rows, job.samples))
            self._rows |= dict.fromkeys(own, (job, own))
        coming = islice(chain(self._waiting, self._following), self._session.slots)
        self._images.expect(path for job in coming for path in job.pictures)

    def _end(self, row: int) -> Iterator[Job[Result]]:
        """Let a row leave, and with its last one the job: it has ended, or asks further before all that have not begun."""
        self._answers[row] = self._session.retire(row)
        job, rows = self._rows.pop(row)
        if any(other in self._rows for other in rows):
            return
        if job.take([self._answers.pop(other) for other in rows]):
            self._waiting.appendleft(job)
        else:
            yield job


class Refill(Generic[Result]):
    """A replica's jobs, group after group; a context manager, within which the model evaluates.

    Args:
        groups: none of them empty.
        open_session: makes the session of a group.
        max_batch_tokens: see `plan_groups`.
        images: reads them ahead.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Job[Result]]],
        open_session: OpenSession,
        max_batch_tokens: int,
        images: ImagesAhead,
    ) -> None:
        self._groups, self._open = deque(groups), open_session
        self._max_batch_tokens, self._images = max_batch_tokens, images
        self._group: _Group[Result] | None = None
        self._session = ExitStack()

    @property
    def busy(self) -> bool:
        """Whether something is left to do."""
        return bool(self._groups) or (self._group is not None and self._group.busy)

    def advance(self, steps: int) -> list[Job[Result]]:
        """Make so many steps, fewer where nothing is left; return what has ended."""
        ended: list[Job[Result]] = []
        for _ in range(steps):
            if not self.busy:
                break
            if self._group is None or not self._group.busy:
                self._close()
                self._group = self._begin(self._groups.popleft())
            ended += self._group.step()
        return ended

    def _begin(self, jobs: Sequence[Job[Result]]) -> _Group[Result]:
        length = max(job.length for job in jobs)
        slots = min(slots_of(length, self._max_batch_tokens), sum(job.samples for job in jobs))
        session = self._session.enter_context(self._open(slots, length))
        return _Group(jobs, self._groups[0] if self._groups else (), session, self._images)

    def _close(self) -> None:
        """Leave the session, whose cache is to go before there is another one."""
        self._group = None
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
