"""The engine of an attribute model: what waits is rated in batches, and many threads ask at once."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy
import pytest
import torch

from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.inference.engine_loop import Ending, QueueFull
from nemo_mm_align.inference.loading import OpenedModel, open_for_inference
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.schema.records import Turn
from nemo_mm_align.serving.led_rater import LedRater, Pixels
from nemo_mm_align.serving.rating_engine import RatingEngine, RatingTicket
from tests.attribute_checkpoints import attribute_checkpoint
from tests.tiny import tiny_llava

pytestmark = [pytest.mark.parallel, pytest.mark.usefixtures("process_group")]

LENGTH = 100
PIXELS = {
    name: numpy.random.default_rng(seed).standard_normal((3, 28, 28), numpy.float32) for seed, name in enumerate("ab")
}
QUESTIONS = [(f"<image>\n{'blue ' * number}?", "ab"[number % 2]) for number in range(5)] + [("five?", "")]


@pytest.fixture(scope="module")
def opened(process_group: None, tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    folder = tmp_path_factory.mktemp("rating_engine")
    attribute_checkpoint(folder / "run", tiny_llava(folder / "base"), "mean")
    return open_for_inference(folder / "run", ParallelConfig(), "fp32", rates=True)


@pytest.fixture(scope="module")
def rater(opened: OpenedModel) -> LedRater:
    return LedRater(opened.rater(max_batch_tokens=300), LENGTH)


@pytest.fixture(scope="module")
def samples(opened: OpenedModel) -> list[Sample]:
    """One or two answers to each question."""
    found = []
    for place, (question, picture) in enumerate(QUESTIONS):
        texts = ("a red circle", "yes")[: 1 + place % 2]
        sequences = opened.encoder.encode_answers([Turn(role="user", content=question)], texts)
        found.append(Sample(str(place), [Path(picture)] if picture else [], sequences))
    return found


@contextmanager
def running(engine: RatingEngine) -> Iterator[None]:
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield
    finally:
        engine.end()
        thread.join()


def test_what_waits_is_rated_together_and_as_it_would_be_alone(rater: LedRater, samples: list[Sample]) -> None:
    alone = [rater.rate([sample], PIXELS)[0] for sample in samples]
    assert sum(len(one) for one in alone) == 9
    engine = RatingEngine(rater, waiting=20)
    tickets = [engine.submit([sample], PIXELS) for sample in samples] + [engine.submit(samples, PIXELS)]
    assert engine.figures.waiting == 7 and not engine.idle
    with running(engine):
        found = [ticket.future.result(30) for ticket in tickets]
    for outputs, expected in zip([*(one for (one,) in found[:-1]), *found[-1]], alone * 2, strict=True):
        torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5)
    admissions = {ticket.admitted for ticket in tickets}
    assert engine.idle and len(admissions) < len(tickets), "several were rated in one batch"


def test_many_threads_are_served(rater: LedRater, samples: list[Sample]) -> None:
    engine = RatingEngine(rater, waiting=100)
    expected = [rater.rate([sample], PIXELS)[0] for sample in samples]

    def ask(place: int) -> float:
        outputs = engine.submit([samples[place % 6]], PIXELS).future.result(30)[0]
        return float((outputs - expected[place % 6]).abs().max())

    with running(engine), ThreadPoolExecutor(8) as threads:
        assert max(threads.map(ask, range(48))) <= 1e-5


def test_what_does_not_fit_is_refused(rater: LedRater, samples: list[Sample]) -> None:
    engine = RatingEngine(rater, waiting=3)
    with pytest.raises(ValueError, match="9 answers at once, and room for 3"):
        engine.submit(samples, PIXELS)
    long = Sample("long", [], [type(samples[5].sequences[0])([5] * (LENGTH + 1), [True] * (LENGTH + 1))])
    with pytest.raises(ValueError, match="101 positions, and room for 100"):
        engine.submit([long], {})
    engine.submit(samples[1:2], PIXELS)
    with pytest.raises(QueueFull, match="no room for 2 answers: 3 may wait"):
        engine.submit(samples[1:2], PIXELS)
    engine.end()
    with pytest.raises(Ending):
        engine.submit(samples[:1], PIXELS)


def test_a_cancelled_request_leaves_the_queue(rater: LedRater, samples: list[Sample]) -> None:
    engine = RatingEngine(rater, waiting=2)
    given_up = engine.submit(samples[1:2], PIXELS)
    engine.cancel(given_up)
    assert engine.idle
    kept = engine.submit(samples[1:2], PIXELS)
    with running(engine):
        assert kept.future.result(30)[0].shape == (2, 5)
    with pytest.raises(CancelledError):
        given_up.future.result(0)


def test_whoever_waits_no_longer_leaves_the_queue(rater: LedRater, samples: list[Sample]) -> None:
    engine = RatingEngine(rater, waiting=2)

    async def wait() -> None:
        await asyncio.wait_for(asyncio.wrap_future(engine.submit(samples[:1], PIXELS).future), 0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(wait())
    assert engine.idle


class Scarce(LedRater):
    """There is memory for one sample at a time, and none for those without pictures."""

    def rate(self, samples: Sequence[Sample], pixels: Pixels) -> list[torch.Tensor]:
        if len(samples) > 1 or not samples[0].image_paths:
            held = torch.zeros(1)
            self.held = weakref.ref(held)  # by the frame of the pass that failed
            raise torch.OutOfMemoryError("no memory")
        assert self.held() is None, "what the failed pass held is free by now"
        return super().rate(samples, pixels)


def test_too_little_memory_fails_only_what_does_not_fit_alone(opened: OpenedModel, samples: list[Sample]) -> None:
    engine = RatingEngine(Scarce(opened.rater(max_batch_tokens=300), LENGTH), waiting=20)
    tickets = [engine.submit([sample], PIXELS) for sample in samples]
    with running(engine):
        assert [ticket.future.exception(30) is None for ticket in tickets] == [True] * 5 + [False]
    assert engine.fault is None


class Broken(LedRater):
    """Fails at the first batch, as a rank does that dies."""

    def rate(self, samples: Sequence[Sample], pixels: Pixels) -> list[torch.Tensor]:
        raise RuntimeError("a rank has died")


def test_a_fault_ends_the_loop_and_everybody_is_told(opened: OpenedModel, samples: list[Sample]) -> None:
    engine = RatingEngine(Broken(opened.rater(max_batch_tokens=300), LENGTH), waiting=20)
    tickets: list[RatingTicket] = [engine.submit([sample], PIXELS) for sample in samples]
    with pytest.raises(RuntimeError, match="a rank has died"):
        engine.run()
    assert all(isinstance(ticket.future.exception(0), RuntimeError) for ticket in tickets)
    assert isinstance(engine.fault, RuntimeError)
    with pytest.raises(Ending):
        engine.submit(samples[:1], PIXELS)
