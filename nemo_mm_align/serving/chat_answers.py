"""The answers of one chat request on their way from the engine's thread to the event loop's."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from nemo_mm_align.inference.engine import AnswerStep, Engine, Ticket
from nemo_mm_align.inference.engine_loop import Ending, QueueFull
from nemo_mm_align.inference.rows import GeneratedAnswer, TokenLogprobs
from nemo_mm_align.serving.chat_request import AskedChat
from nemo_mm_align.serving.engine_errors import api_error
from nemo_mm_align.serving.metrics import ServerMetrics
from nemo_mm_align.serving.streamed_text import StreamedText


@dataclass
class GrowingAnswer:
    """One answer so far.

    Args:
        choices: indices of the choices that it becomes.
        attributes: that it is asked for; None: nothing.
        text: what of it is fit to be sent.
        tokens: how many have come.
        logprobs: of these, where they were asked for.
        ended: all of it.
    """

    choices: range
    attributes: dict[str, float] | None
    text: StreamedText
    tokens: int = 0
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    ended: GeneratedAnswer | None = None
    last_token: float | None = None


@dataclass(frozen=True)
class Growth:
    """What has come of an answer.

    Args:
        answer: as it stands now.
        text: that is new; may be none.
    """

    answer: GrowingAnswer
    text: str


@dataclass(frozen=True)
class _News:
    ticket: Ticket
    steps: Sequence[AnswerStep]
    at: float


class ChatAnswers:
    """Listens to the tickets of one request; all but `stepped` and `failed` belong to the event loop.

    An answer that is sent whole wakes the event loop once it has ended, not at every token: the loop's work for a token takes as
    long as a row of a small model's step, and the engine's thread waits for it.

    Args:
        engine: that answers.
        asked: the request.
        decode: token ids to text as it stands, not stripped.
        metrics: that count it.
        arrived: when the request came, seconds of `time.monotonic`.
    """

    def __init__(
        self,
        engine: Engine,
        asked: AskedChat,
        decode: Callable[[Sequence[int]], str],
        metrics: ServerMetrics,
        arrived: float,
    ) -> None:
        self._engine, self._asked, self._decode, self._metrics = engine, asked, decode, metrics
        self._arrived, self._loop = arrived, asyncio.get_running_loop()
        self._news: deque[_News | BaseException] = deque()
        self._woken, self._arrival = False, asyncio.Event()
        self._tickets: dict[Ticket, list[GrowingAnswer]] = {}
        self._first_token = True

    @property
    def all(self) -> list[GrowingAnswer]:
        """Every answer, in the order of their choices."""
        return [answer for answers in self._tickets.values() for answer in answers]

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts: one, or that of each assignment of a sweep."""
        return sum(len(request.prompt.ids) for request in self._asked.requests)

    @property
    def cached_tokens(self) -> int:
        """Those of `prompt_tokens` that were kept from earlier prompts and not computed."""
        return sum(ticket.cached for ticket in self._tickets)

    @property
    def completion_tokens(self) -> int:
        """Of all answers that have ended, each as often as it is told."""
        return sum(len(answer.ended.ids) * len(answer.choices) for answer in self.all if answer.ended)

    def submit(self) -> None:
        """Hand the request to the engine, wholly or not at all.

        Raises:
            ApiError: the queue is full, the server is about to end, or it will never fit.
        """
        try:
            for place, request in enumerate(self._asked.requests):
                ticket = self._engine.submit(request, self._asked.images, self)
                self._tickets[ticket] = [self._answer(place, sample) for sample in range(ticket.answers)]
        except (QueueFull, Ending, ValueError) as error:
            for ticket in self._tickets:
                self._engine.cancel(ticket)
            raise api_error(error) from None
        self._metrics.taken_in(self.prompt_tokens)

    def _answer(self, place: int, sample: int) -> GrowingAnswer:
        stop = self._asked.requests[place].sampling.stop
        text = StreamedText(self._decode, stop)
        return GrowingAnswer(self._asked.choices(place, sample), self._asked.attributes[place], text)

    def stepped(self, ticket: Ticket, steps: Sequence[AnswerStep]) -> None:
        """See `Listener`."""
        self._tell(
            _News(ticket, steps, time.monotonic()),
            wake=self._asked.stream or any(step.answer is not None for step in steps),
        )

    def failed(self, ticket: Ticket, error: BaseException) -> None:
        """See `Listener`."""
        self._tell(error, wake=True)

    def _tell(self, news: _News | BaseException, wake: bool) -> None:
        self._news.append(news)
        if wake and not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                self._loop.call_soon_threadsafe(self._arrival.set)

    async def growth(self, quiet: float | None = None) -> AsyncIterator[list[Growth]]:
        """Yield what has come, as it comes, until all answers have ended.

        Args:
            quiet: seconds without anything after which an empty list is yielded.

        Raises:
            ApiError: nothing more will come.
        """
        unfinished = len(self.all)
        while unfinished:
            found = await self._wait(quiet)
            if not found:
                yield []
            for news in found:  # one by one: what is made of an answer's growth depends on whether it has ended by then
                yield [self._grow(news, step) for step in news.steps]
            unfinished = sum(answer.ended is None for answer in self.all)
        self._metrics.ended(time.monotonic() - self._arrived)

    async def _wait(self, quiet: float | None) -> list[_News]:
        """What has come since the last time; nothing where nothing comes for so many seconds."""
        try:
            async with asyncio.timeout(quiet):
                await self._woken_with_news()
        except TimeoutError:
            return []
        found = list[_News]()
        while self._news:
            news = self._news.popleft()
            if isinstance(news, _News):
                found.append(news)
            elif found:  # they are told first
                self._news.appendleft(news)
                self._arrival.set()
                break
            else:
                raise api_error(news)
        return found

    async def _woken_with_news(self) -> None:
        while True:
            await self._arrival.wait()
            self._arrival.clear()
            self._woken = False  # before the news are taken: what comes meanwhile wakes again
            if self._news:
                return

    def _grow(self, news: _News, step: AnswerStep) -> Growth:
        answer = self._tickets[news.ticket][step.sample]
        answer.tokens += step.token is not None
        self._count(answer, news, step)
        if step.logprobs is not None and step.token is not None:  # a stop token is no part of what is told
            answer.logprobs.append(step.logprobs)
        if step.answer is None:
            if step.token is None or not self._asked.stream:
                return Growth(answer, "")
            return Growth(answer, answer.text.add(step.token))
        answer.ended = step.answer
        if answer.logprobs and step.answer.text is not None:
            answer.logprobs = answer.logprobs[: tokens_before_stop(step.answer, self._decode)]
        self._metrics.answered(step.answer.finish_reason, len(step.answer.ids))
        return Growth(answer, answer.text.end(whole_text(step.answer, self._decode)))

    def _count(self, answer: GrowingAnswer, news: _News, step: AnswerStep) -> None:
        if self._first_token:
            self._first_token = False
            self._metrics.first_token(news.at - self._arrived)
            self._metrics.admitted((news.ticket.admitted or news.at) - news.ticket.submitted)
        elif answer.last_token is not None and step.token is not None:
            self._metrics.next_token(news.at - answer.last_token)
        answer.last_token = news.at

    def cancel(self) -> None:
        """Give up what has not ended; its rows are free for others. What has come of it until then is counted."""
        while self._news:
            news = self._news.popleft()
            if isinstance(news, _News):
                for step in news.steps:
                    self._tickets[news.ticket][step.sample].tokens += step.token is not None
        for ticket, answers in self._tickets.items():
            if any(answer.ended is None for answer in answers):
                self._engine.cancel(ticket)
                for answer in answers:
                    if answer.ended is None:
                        self._metrics.answered("abort", answer.tokens)


def whole_text(answer: GeneratedAnswer, decode: Callable[[Sequence[int]], str]) -> str:
    """Return what an answer says, as `sample` and `generate` write it."""
    return (decode(answer.ids) if answer.text is None else answer.text).strip()


def tokens_before_stop(answer: GeneratedAnswer, decode: Callable[[Sequence[int]], str]) -> int:
    """Return how many of an answer's tokens say its text, which a stop text has cut; the last may say more than that."""
    ids, text = answer.ids, answer.text or ""
    return bisect_left(range(len(ids)), True, key=lambda count: decode(ids[:count]).startswith(text))
