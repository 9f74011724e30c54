"""Continuous batching in one process: answers as if alone, each prompt computed once; other layouts are in test_decoding.py.

In float64, as where two tokens are about as probable rounding would choose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nemo_mm_align.inference import refill
from nemo_mm_align.inference.decode import generate_batch
from nemo_mm_align.inference.images_ahead import ImagesAhead
from nemo_mm_align.inference.prefill import Prefill, Prompts
from nemo_mm_align.inference.refill import Job, Refill
from nemo_mm_align.inference.requests import EncodedPrompt
from nemo_mm_align.inference.rows import DecodingRequest, GeneratedAnswer
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.session import DecodingSession
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.schema.images import ImageProcessor
from tests.float64 import Float64
from tests.gpu import cpu_parity_worker as small

pytestmark = [pytest.mark.parallel, pytest.mark.usefixtures("process_group")]

DRAWN = SamplingSettings(temperature=1.2, top_k=40, max_new_tokens=14, num_samples=4, seed=3)
STOPS = frozenset(range(0, 500, 9))


class Asked(Job[list[GeneratedAnswer]]):
    """A request with as many questions as it is told."""

    def __init__(self, place: int, request: DecodingRequest, questions: int = 1) -> None:
        self.place, self.length, self.samples = place, request.length, request.sampling.num_samples
        self.answers, self.pictures = questions * self.samples, ()
        self._request, self._left, self._found = request, questions, list[GeneratedAnswer]()

    def ask(self) -> DecodingRequest | None:
        return self._request

    def take(self, answers: Sequence[GeneratedAnswer]) -> bool:
        self._found += answers
        self._left -= 1
        return self._left > 0

    @property
    def result(self) -> list[GeneratedAnswer]:
        return self._found


@pytest.fixture
def model() -> Iterator[Llava]:
    with Float64():
        yield small.build(None).double()


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts each pass computes."""
    passes: list[int] = []
    real = Prefill.compute

    def compute(self: Prefill, prompts: Prompts, slots: Sequence[int]) -> list:
        passes.append(len(prompts.requests))
        return real(self, prompts, slots)

    monkeypatch.setattr(Prefill, "compute", compute)
    return passes


def request(number: int, sampling: SamplingSettings = DRAWN, length: int = 6) -> DecodingRequest:
    prompt = EncodedPrompt(f"r{number}", list(range(7 + number, 7 + number + length)))
    return DecodingRequest(prompt, sampling, STOPS)


def alone(model: Llava, asked: DecodingRequest) -> list[GeneratedAnswer]:
    (answers,) = generate_batch(model, [asked.prompt], None, asked.sampling, sorted(asked.stop_ids), graphs=False)
    return answers


def refilled(model: Llava, groups: Sequence[Sequence[Asked]], max_batch_tokens: int, graphs: bool = False) -> list:
    def opened(slots: int, length: int) -> DecodingSession:
        return DecodingSession(model, slots, length, graphs=graphs)

    ended: list[Job[list[GeneratedAnswer]]] = []
    with (
        ImagesAhead(ImageProcessor(image_size=28), looks=True) as images,
        Refill(groups, opened, max_batch_tokens, images) as running,
    ):
        while running.busy:
            ended += running.advance(5)
    assert model.training
    return [job.result for job in sorted(ended, key=lambda job: job.place)]


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("slots", [1, 3, 4, 9, 100])
def test_answers_wait_for_slots_and_no_prompt_is_computed_twice(
    model: Llava, computed: list[int], slots: int, graphs: bool
) -> None:
    asked = [request(number, length=6 + number % 5) for number in range(7)]
    expected = [alone(model, one) for one in asked]
    lengths = {len(answer.ids) for answers in expected for answer in answers}
    assert len(lengths) > 6 and 14 in lengths, "answers must end at different steps"
    computed.clear()
    longest = max(one.length for one in asked)
    jobs = [Asked(number, one) for number, one in enumerate(asked)]
    assert refilled(model, [jobs[:5], jobs[5:]], slots * longest, graphs) == expected
    assert sum(computed) == 7
    assert computed == [5, 2] if slots == 100 else len(computed) > 2


def test_those_that_join_do_so_together_and_within_bounds(
    model: Llava, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    single = replace(DRAWN, num_samples=1)
    asked = [request(number, single, 6) for number in range(40)]
    expected = [alone(model, one) for one in asked]

    def passes() -> list[int]:
        computed.clear()
        jobs = [Asked(number, one) for number, one in enumerate(asked)]
        assert refilled(model, [jobs], 8 * asked[0].length) == expected
        return list(computed)

    monkeypatch.setattr(refill, "JOINING", 0.5)
    together = passes()
    assert together[0] == 8 and min(together[:-1]) >= 4
    monkeypatch.setattr(refill, "TOGETHER", 3 * 6 + 5)
    assert max(passes()) == 3


def test_what_follows_an_answer_comes_before_what_has_not_begun(model: Llava) -> None:
    one = request(0, replace(DRAWN, num_samples=1))
    (expected,) = alone(model, one)
    order: list[int] = []

    class Noted(Asked):
        def ask(self) -> DecodingRequest | None:
            order.append(self.place)
            return None if self.place == 2 else super().ask()

    jobs = [Noted(place, one, questions=2) for place in range(4)]
    assert refilled(model, [jobs], one.length) == [[expected] * 2, [expected] * 2, [], [expected] * 2]
    assert order == [0, 0, 1, 1, 2, 3, 3]


def test_an_answer_that_is_given_up_leaves_its_prompt_to_the_others(model: Llava, computed: list[int]) -> None:
    asked, beside = request(1), request(2, replace(DRAWN, num_samples=1))
    expected, (other,) = alone(model, asked), alone(model, beside)[:1]
    computed.clear()
    with DecodingSession(model, 2, max(asked.length, beside.length)) as session:
        (first, *rest), last = (rows := session.admit([asked, beside], may_wait=True))[:-1], rows[-1]
        assert session.room == 0 and len(session.step()) == 5, "all have their first token"
        session.step()
        assert session.retire(first) == GeneratedAnswer(expected[0].ids[:2], "abort")
        assert session.retire(rest[2]) == GeneratedAnswer(expected[3].ids[:1], "abort"), "it had no slot yet"
        while session.busy:
            session.step()
        assert [session.retire(row) for row in (*rest[:2], last)] == [*expected[1:3], other]
    assert computed == [2]


def test_images_are_read_ahead_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_mm_align.inference import images_ahead

    read: list[str] = []

    class Processor:
        def __call__(self, image: str) -> object:
            read.append(image)
            return torch.full((3, 2, 2), float(image)).numpy()

    monkeypatch.setattr(images_ahead, "load_image", lambda path: path.name)
    monkeypatch.setattr(images_ahead, "MOST", 2)
    one, two, three = (tmp_path / str(number) for number in (1, 2, 3))
    with ImagesAhead(Processor(), looks=True) as images:  # type: ignore[arg-type]
        images.expect([one, two, one, three])
        batch = images.batch([two, one, two])
        assert batch is not None and sorted(read) == ["1", "2"]
        assert batch.index_K.tolist() == [0, 1, 0] and batch.pixels_NCHW[:, 0, 0, 0].tolist() == [2, 1]
        images.expect([one, three])
        assert images.batch([three, one]) is not None and sorted(read) == ["1", "2", "3"]
        assert images.batch([]) is None
    with ImagesAhead(Processor(), looks=False) as images:  # type: ignore[arg-type]
        images.expect([one])
        assert images.batch([one]) is None
    assert sorted(read) == ["1", "2", "3"]
