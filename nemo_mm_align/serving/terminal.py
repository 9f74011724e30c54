"""A model in the terminal: lines in, answers out as they come, attributes changed in between."""

from __future__ import annotations

import queue
import re
import time
from collections.abc import Callable, Sequence

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.engine import AnswerStep, Engine, Ticket
from nemo_mm_align.inference.rows import GeneratedAnswer
from nemo_mm_align.serving.chat_request import AskedChat, read_chat
from nemo_mm_align.serving.engine_errors import api_error
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.served_model import ServedModel
from nemo_mm_align.serving.streamed_text import StreamedText
from nemo_mm_align.serving.talk import Body, Talk
from nemo_mm_align.serving.terminal_commands import asking, run

PROMPT = "> "

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Terminal:
    """Talks to a model.

    Args:
        served: the model.
        engine: that answers; its loop runs in another thread.
        read: returns the next line; raises `EOFError` at the end.
        write: shows text as it is.
    """

    def __init__(
        self, served: ServedModel, engine: Engine, read: Callable[[str], str], write: Callable[[str], object]
    ) -> None:
        self._served, self._engine, self._read, self._write = served, engine, read, write
        self._talk = Talk(served, {} if served.asks_by_default else None)

    def run(self) -> None:
        """Talk until the end of the lines, or ``/quit``; raise what ended the engine."""
        self._say(f"{self._served.name}, {asking(self._talk)}. /help shows what can be done.")
        while self._engine.fault is None:
            try:
                line = self._read(PROMPT).strip()
                if line and self._leaves(line):
                    return
            except EOFError:
                self._write("\n")
                return
            except KeyboardInterrupt:
                self._say("\n/quit or Ctrl-D ends the conversation.")
            except UserError as error:
                self._say(str(error))
            except ApiError as error:
                self._say(error.message)
        raise self._engine.fault

    def _leaves(self, line: str) -> bool:
        if line.startswith("/") and not line.startswith("//"):
            outcome = run(self._talk, line)
            if outcome.text:
                self._say(outcome.text)
            if outcome.question is not None:
                self._ask(outcome.question, outcome.sweep)
            return outcome.leave
        self._ask(line.removeprefix("/"), None)
        return False

    def _ask(self, question: str, sweep: str | None) -> None:
        body: Body = self._talk.body(question)
        if sweep is not None:
            asked = read_chat({**body, "attributes": self._talk.attributes or {}, "sweep": [sweep]}, self._served)
            for place, attributes in enumerate(asked.attributes):
                assert attributes is not None
                self._say(f"{sweep}={attributes[sweep]:g}")
                self._answer(asked, place)
            return
        answer = self._answer(read_chat(body, self._served), 0)
        if answer is not None:
            self._talk.add(question, answer)

    def _answer(self, asked: AskedChat, place: int) -> str | None:
        """Show an answer as it comes; return it, None where it was broken off."""
        began, listener = time.monotonic(), _Listener()
        request = asked.requests[place]
        ticket = self._engine.submit(request, asked.images, listener)
        text = StreamedText(self._served.encoder.decode_whole, request.sampling.stop)
        try:
            answer = self._follow(listener, text)
        except KeyboardInterrupt:
            self._engine.cancel(ticket)
            self._say("\n(broken off; not kept in the conversation)")
            return None
        whole = self._served.encoder.decode(answer.ids) if answer.text is None else answer.text.strip()
        self._write(_CONTROL.sub("", text.end(whole)))
        cut = ", cut by max_tokens" if answer.finish_reason == "length" else ""
        self._say(f"\n[{len(answer.ids)} tokens in {time.monotonic() - began:.1f} s{cut}]")
        return whole

    def _follow(self, listener: _Listener, text: StreamedText) -> GeneratedAnswer:
        while True:
            news = listener.news.get()
            if isinstance(news, BaseException):
                raise api_error(news)  # what the engine survives, the conversation does too
            if news.token is not None and news.answer is None:
                self._write(_CONTROL.sub("", text.add(news.token)))
            if news.answer is not None:
                return news.answer

    def _say(self, text: str) -> None:
        self._write(text + "\n")


class _Listener:
    """Hands what comes to the thread that shows it."""

    def __init__(self) -> None:
        self.news: queue.SimpleQueue[AnswerStep | BaseException] = queue.SimpleQueue()

    def stepped(self, ticket: Ticket, steps: Sequence[AnswerStep]) -> None:
        for step in steps:
            self.news.put(step)

    def failed(self, ticket: Ticket, error: BaseException) -> None:
        self.news.put(error)
