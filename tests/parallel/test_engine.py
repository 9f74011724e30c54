"""The engine with a real small model: whoever asks at the same time is answered as alone, and faults stay where they belong.

The loop is in the main thread, in float64, clients are in others.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from nemo_mm_align.inference import engine as engine_module
from nemo_mm_align.inference.engine import AnswerStep, Engine, Ticket
from nemo_mm_align.inference.engine_loop import Ending, QueueFull
from nemo_mm_align.inference.led_session import LedSession
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.rows import DecodingRequest, GeneratedAnswer
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.session import DecodingSession
from nemo_mm_align.model.llava import Llava
from tests.parallel import test_decoding_prefixes as prefixes
from tests.parallel.test_decoding_prefixes import IMAGE, LENGTH, NAMES, alone, encoded, model, request
from tests.waiting import PATIENCE_S

__all__ = ["model"]
pytestmark = [pytest.mark.parallel, pytest.mark.usefixtures("process_group")]

SLOTS = 5
DRAWN = SamplingSettings(temperature=1.2, max_new_tokens=7, seed=7)


@dataclass
class Heard:
    """A client: what it was told, step by step."""

    on_step: Callable[[Ticket], object] = lambda ticket: None
    tokens: dict[int, list[int]] = field(default_factory=dict)
    answers: dict[int, GeneratedAnswer] = field(default_factory=dict)
    error: BaseException | None = None
    logprobs: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def stepped(self, ticket: Ticket, steps: Sequence[AnswerStep]) -> None:
        for step in steps:
            assert not self.ended.is_set() and step.sample not in self.answers
            told = self.tokens.setdefault(step.sample, [])
            told += [] if step.token is None else [step.token]
            self.logprobs += step.logprobs is not None
            if step.answer is not None:
                self.answers[step.sample] = step.answer
                assert told == step.answer.ids
        if len(self.answers) == ticket.answers:
            self.ended.set()
        self.on_step(ticket)

    def failed(self, ticket: Ticket, error: BaseException) -> None:
        assert self.error is None
        self.error = error
        self.ended.set()

    @property
    def all(self) -> list[GeneratedAnswer]:
        return [answer for _, answer in sorted(self.answers.items())]


def engine_of(model: Llava, waiting: int = 100, slots: int = SLOTS, **settings: Any) -> tuple[Engine, DecodingSession]:
    own = DecodingSession(model, slots, LENGTH, **settings)
    return Engine(LedSession(own), waiting), own


def submit(engine: Engine, asked: DecodingRequest, heard: Heard | None = None) -> tuple[Ticket, Heard]:
    images = prefixes.images_of([asked])
    heard = heard or Heard()
    return engine.submit(asked, images and replace(images, names=NAMES), heard), heard


def text(number: int, **sampling: Any) -> DecodingRequest:
    return request([1, 9 + number, 11, 12 + number % 5], (), replace(DRAWN, **sampling), f"t{number}")


def drain(engine: Engine) -> None:
    engine.end()
    engine.run()
    assert engine.idle and engine.figures.cache_usage == 0


def traffic(count: int) -> list[DecodingRequest]:
    drawn = random.Random(1)
    asked = []
    for number in range(count):
        picture = drawn.choice([None, *NAMES])
        sampling = replace(DRAWN, num_samples=drawn.choice([1, 1, 1, 3]), max_new_tokens=drawn.randrange(1, 12))
        rest = [drawn.randrange(7, 500) for _ in range(drawn.randrange(2, 20))]
        ids, pictures = ([1, *IMAGE, 8, *rest], [picture]) if picture else ([1, *rest], [])
        asked.append(replace(request(ids, pictures, sampling, f"r{number}"), top_logprobs=drawn.choice([None, 2])))
    return asked


@pytest.mark.parametrize("graphs", [False, True])
def test_many_ask_and_some_give_up(model: Llava, graphs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = traffic(40)
    expected = [alone(model, one) for one in asked]
    seen = encoded(model, monkeypatch)
    engine, own = engine_of(model, graphs=graphs, kept=2)
    tickets: list[tuple[Ticket, Heard] | None] = [None] * len(asked)

    def client(first: int) -> None:
        for number in range(first, len(asked), 8):
            gives_up = number % 5 == 0
            heard = Heard(engine.cancel if gives_up and number % 2 else lambda ticket: None)
            tickets[number] = submit(engine, asked[number], heard)
            if gives_up and not number % 2:
                engine.cancel(tickets[number][0])
            elif not gives_up:
                assert heard.ended.wait(PATIENCE_S)

    with ThreadPoolExecutor(9) as pool:
        clients = [pool.submit(client, first) for first in range(8)]
        ends = pool.submit(lambda: ([one.exception() for one in clients], engine.end()))
        engine.run()
        assert ends.result()[0] == [None] * 8
    for number, (one, answers) in enumerate(zip(asked, expected, strict=True)):
        heard = tickets[number][1]
        assert heard.error is None
        if number % 5:
            assert heard.all == answers, number
            told = sum(len(answer.ids) + (answer.finish_reason == "stop") for answer in answers)
            assert heard.logprobs == (told if one.top_logprobs else 0)
        for sample, ids in heard.tokens.items():
            assert ids == answers[sample].ids[: len(ids)], "those who gave up heard the right thing until then"
    assert engine.idle and own.room == SLOTS and not own.busy
    figures = engine.figures
    assert sum(seen) == 3 and figures.image_queries - figures.image_hits == 3 < figures.image_hits
    assert 0 < figures.prefix_hits < figures.prefix_queries


@pytest.mark.parametrize(("seconds", "together"), [(PATIENCE_S, True), (0.01, False)])
def test_who_is_on_the_way_is_waited_for(
    model: Llava, seconds: float, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "GATHER_SECONDS", seconds)
    engine, _ = engine_of(model)

    def clients() -> list[tuple[Ticket, Heard]]:
        with engine.expecting():
            first = submit(engine, text(0))
            if together:
                time.sleep(0.05)  # the engine would have begun
            else:
                assert first[1].ended.wait(PATIENCE_S), "one that never comes holds nobody up"
            found = [first, submit(engine, text(1))]
        assert all(heard.ended.wait(PATIENCE_S) for _, heard in found)
        return found

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(clients)
        asking.add_done_callback(lambda _: engine.end())
        engine.run()
    tickets, heard = zip(*asking.result(), strict=True)
    assert [one.all for one in heard] == [alone(model, text(number)) for number in range(2)]
    assert (tickets[0].admitted == tickets[1].admitted) is together


def test_each_ticket_tells_what_of_its_prompt_was_kept(model: Llava) -> None:
    engine, own = engine_of(model, slots=2, kept=3)
    drawn = replace(DRAWN, num_samples=2)
    other, begins = request(range(60, 80)), request(range(7, 30))
    asked = [request(range(7, 47)), other, request(range(7, 47), (), drawn), begins, text(0)]
    tickets = [submit(engine, one)[0] for one in asked]
    drain(engine)
    assert [ticket.cached for ticket in tickets] == [0, 0, 39, 22, 0], "once for a prompt, however many its answers"
    assert own.reused == (40 + 20 + 40 + 23 + 4, 39 + 22)


def test_the_queue_is_bounded_and_the_end_answers_what_it_holds(model: Llava) -> None:
    engine, _ = engine_of(model, waiting=3)
    most = 3 + SLOTS  # nobody lies in a slot so far
    asked = [text(number) for number in range(most)]
    heard = [submit(engine, one)[1] for one in asked]
    with pytest.raises(QueueFull, match="3 requests wait"):
        submit(engine, text(most))
    assert (engine.figures.waiting, engine.idle) == (most, False)
    ticket, gone = engine._waiting[1], heard.pop(1)
    engine.cancel(ticket)
    heard.append(submit(engine, text(most))[1])
    drain(engine)
    assert [one.all for one in heard] == [alone(model, one) for one in (asked[0], *asked[2:], text(most))]
    assert gone.tokens == {} and not gone.ended.is_set()
    with pytest.raises(Ending):
        submit(engine, text(0))


def test_what_will_never_fit_is_refused_and_what_cannot_be_read_fails_alone(model: Llava) -> None:
    engine, _ = engine_of(model)
    for never in (text(0, max_new_tokens=LENGTH), text(0, num_samples=SLOTS + 1)):
        with pytest.raises(ValueError, match="and room for"):
            submit(engine, never)
    _, good = submit(engine, text(1))
    heard = [Heard() for _ in range(5)]
    picture = request([1, *IMAGE, 8], ["red"])
    engine.submit(picture, None, heard[0])
    engine.submit(text(2), ImageBatch(torch.zeros(1, 3, 56, 56), torch.zeros(1, dtype=torch.int64)), heard[1])
    engine.submit(picture, ImageBatch(torch.zeros(1, 3, 28, 28), torch.zeros(1, dtype=torch.int64)), heard[2])
    engine.submit(replace(text(3), top_logprobs=515), None, heard[3])
    engine.submit(request([1, 515]), None, heard[4])
    _, last = submit(engine, picture)
    drain(engine)
    for one, why in zip(heard, ["16 image", "0 image", "model takes", "log-prob", "does not know"], strict=True):
        assert isinstance(one.error, ValueError) and why in str(one.error)
    assert good.all == alone(model, text(1)) and last.all == alone(model, picture)


def test_a_listener_that_raises_loses_its_own_answer(model: Llava) -> None:
    def hangs_up(ticket: Ticket) -> None:
        raise ConnectionError("gone")

    engine, own = engine_of(model)
    _, broken = submit(engine, text(1, num_samples=2), Heard(hangs_up))
    _, other = submit(engine, text(2))
    drain(engine)
    assert isinstance(broken.error, ConnectionError) and not broken.answers
    assert other.all == alone(model, text(2)) and own.room == SLOTS


def test_a_large_request_is_not_overtaken(model: Llava) -> None:
    """Small ones come all the time; the large one waits for all slots, and those behind it for their turn."""
    engine, _ = engine_of(model, slots=4)
    asked = [text(number, max_new_tokens=4 + number % 3) for number in range(12)]
    order = [submit(engine, one)[0] for one in asked[:3]]
    large = text(20, num_samples=4)
    big, heard = submit(engine, large)
    order += [big, *(submit(engine, one)[0] for one in asked[3:])]
    drain(engine)
    admitted = [ticket.admitted for ticket in order]
    assert admitted == sorted(admitted) and admitted[2] < admitted[3] < admitted[4]
    assert heard.all == alone(model, large)


def out_of_memory_at(own: DecodingSession, monkeypatch: pytest.MonkeyPatch, token: int) -> None:
    prefill = own._stage.prefill

    def without_memory(ids_PS: torch.Tensor, *arguments: Any) -> torch.Tensor | None:
        if (ids_PS == token).any():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return prefill(ids_PS, *arguments)

    monkeypatch.setattr(own._stage, "prefill", without_memory)


def test_prompts_without_memory_are_lost_alone(model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, own = engine_of(model, kept=2)
    out_of_memory_at(own, monkeypatch, 444)
    large = [request([1, 444, 5 + number], (), replace(DRAWN, num_samples=2)) for number in range(2)]
    found: list[Heard] = []

    def goes_on(ticket: Ticket) -> None:
        if not found:
            found.extend(submit(engine, one)[1] for one in (*large, text(2)))

    _, running = submit(engine, text(1, max_new_tokens=12), Heard(goes_on))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: (running.ended.wait(PATIENCE_S), engine.end()))
        engine.run()
    assert running.all == alone(model, text(1, max_new_tokens=12)), "was on its way"
    for one in found[:2]:
        assert isinstance(one.error, torch.OutOfMemoryError) and one.error.__traceback__ is None
    assert found[2].all == alone(model, text(2)), "waited, as there was no slot for it"
    assert own.room == SLOTS and engine.fault is None


def test_no_memory_to_keep_a_prompt_costs_no_answer(model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, own = engine_of(model, kept=2)
    tried = list[int]()

    def without_memory(*arguments: Any) -> None:
        tried.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(own._stage.cache, "move", without_memory)
    asked = request([5 + number for number in range(20)], (), DRAWN)
    _, heard = submit(engine, asked)
    engine.end()
    engine.run()
    assert len(tried) == 2, "the prompt, and the prompt with its answer"
    assert heard.all == alone(model, asked) and engine.fault is None


def test_a_fault_is_told_to_everyone(model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, own = engine_of(model, slots=2)
    heard = [submit(engine, text(number))[1] for number in range(4)]
    step, calls = own._stage.step, []

    def breaks(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("an illegal memory access was encountered")
        return step(*arguments)

    monkeypatch.setattr(own._stage, "step", breaks)
    with pytest.raises(RuntimeError, match="illegal memory"):
        engine.run()
    assert [str(one.error) for one in heard] == ["an illegal memory access was encountered"] * 4
    assert [len(one.tokens) for one in heard] == [1, 1, 0, 0] and engine.idle
    with pytest.raises(Ending) as refused:
        submit(engine, text(5))
    assert refused.value.__cause__ is engine.fault is heard[0].error
