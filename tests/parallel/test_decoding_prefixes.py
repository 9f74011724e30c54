"""Prompts that begin as an earlier one did are gone on from there, and answered as they are alone.

In float64, as where two tokens are about as probable rounding would choose.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_mm_align.inference import prefixes, steps
from nemo_mm_align.inference.decode import generate_batch
from nemo_mm_align.inference.prefill import ImageBatch, Prefill, Prompts
from nemo_mm_align.inference.requests import EncodedPrompt
from nemo_mm_align.inference.rows import DecodingRequest, GeneratedAnswer
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.session import DecodingSession
from nemo_mm_align.model.llava import Llava
from tests.float64 import Float64
from tests.gpu import cpu_parity_worker as small

pytestmark = [pytest.mark.parallel, pytest.mark.usefixtures("process_group")]

IMAGE = [small.CONFIG.image_token_id] * small.CONFIG.tokens_per_image
GREEDY = SamplingSettings(temperature=0, max_new_tokens=6)
DRAWN = SamplingSettings(temperature=1.2, max_new_tokens=5, seed=7)
LENGTH = 96
NAMES = ("red", "green", "blue")


@pytest.fixture
def model() -> Iterator[Llava]:
    with Float64():
        yield small.build(None).double()


def request(
    ids: Sequence[int], pictures: Sequence[str] = (), sampling: SamplingSettings = GREEDY, name: str = ""
) -> DecodingRequest:
    paths = tuple(Path(picture) for picture in pictures)
    return DecodingRequest(
        EncodedPrompt(name or f"{ids}{pictures}", list(ids), paths), sampling, frozenset({3}), tuple(pictures)
    )


def images_of(asked: Sequence[DecodingRequest]) -> ImageBatch | None:
    pixels_NCHW = torch.randn(len(NAMES), 3, 56, 56, generator=torch.Generator().manual_seed(2))
    index = [NAMES.index(path.name) for one in asked for path in one.prompt.image_paths]
    return ImageBatch(pixels_NCHW, torch.tensor(index)) if index else None


def alone(model: Llava, asked: DecodingRequest) -> list[GeneratedAnswer]:
    (answers,) = generate_batch(model, [asked.prompt], images_of([asked]), asked.sampling, [3], graphs=False)
    return answers


def ask(session: DecodingSession, *asked: DecodingRequest) -> list[list[GeneratedAnswer]]:
    rows = iter(session.admit(asked, images_of(asked)))
    while session.busy:
        session.step()
    return [[session.retire(next(rows)) for _ in range(one.sampling.num_samples)] for one in asked]


def encoded(model: Llava, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures the tower sees, pass by pass."""
    seen: list[int] = []
    encode = model.encode_images

    def counted(images_NCHW: torch.Tensor) -> torch.Tensor:
        seen.append(len(images_NCHW))
        return encode(images_NCHW)

    monkeypatch.setattr(model, "encode_images", counted)
    return seen


def test_a_conversation_goes_on_where_it_was(model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, ids, computed = encoded(model, monkeypatch), [1, 9, *IMAGE, 11, 12], []
    with DecodingSession(model, 2, LENGTH, kept=1) as session:
        for turn in range(3):
            asked = request(ids, ["red"])
            pictures = len(seen)
            answers = ask(session, asked)
            computed.append(len(seen) - pictures)
            assert answers == [alone(model, asked)]
            found = answers[0][0].ids
            assert found and 3 not in found
            ids = [*ids, *found, 20 + turn, 21, 22]
        asked, reused = session.reused
    assert computed == [1, 0, 0], "the picture is looked at once"
    assert (asked, reused) == (20 + 29 + 38, 25 + 34), "all but the last token of each answer, and the new question"


@pytest.mark.parametrize("samples", [1, 2])
def test_a_picture_of_several_questions_is_computed_once(
    model: Llava, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    sampling = replace(DRAWN, num_samples=samples)
    asked = [request([1, *IMAGE, 30, *range(40, 40 + number)], ["red"], sampling) for number in range(5)]
    expected = [alone(model, one) for one in asked]
    seen = encoded(model, monkeypatch)
    with DecodingSession(model, 10, LENGTH, kept=3) as session:
        assert ask(session, *asked) == expected
        assert seen == [1]
        assert ask(session, *reversed(asked)) == expected[::-1]
        assert seen == [1]


def test_prompts_wait_for_no_more_than_the_first_of_them_keeps(model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    system = [1, *range(100, 120)]
    asked = [request([*system, 200 + number, 8, 9]) for number in range(5)]
    pictures = [request([*system, *IMAGE, 30 + number], [name]) for name in NAMES[:2] for number in range(3)]
    expected = [[alone(model, one) for one in some] for some in (asked, pictures)]
    passes: list[tuple[str, int]] = []
    for name in ("_begin", "_go_on"):
        compute = getattr(Prefill, name)

        def counted(self: Prefill, prompts: Prompts, *rest: Any, name: str = name, compute: Any = compute) -> Any:
            passes.append((name, len(prompts.requests)))
            return compute(self, prompts, *rest)

        monkeypatch.setattr(Prefill, name, counted)
    with DecodingSession(model, 6, LENGTH, kept=8) as session:
        assert ask(session, *asked) == expected[0]
        assert passes == [("_begin", 1), ("_go_on", 4)], "what they have in common once, the rest of all together"
        passes.clear()
        assert ask(session, *pictures) == expected[1]
        assert passes == [("_go_on", 2), ("_go_on", 4)], "one for each picture, then their other questions"


def test_other_pictures_and_unknown_ones_are_told_apart(model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [1, *IMAGE, 30, 31]
    asked = [request(ids, [name]) for name in NAMES]
    unknown = [replace(one, pictures=()) for one in asked]
    two = [request([1, *IMAGE, 5, *IMAGE, 30], [first, second]) for first in NAMES for second in NAMES[:2]]
    expected = [alone(model, one) for one in (*asked, *two)]
    assert len({tuple(answers[0].ids) for answers in expected}) > 4
    seen = encoded(model, monkeypatch)
    with DecodingSession(model, 9, LENGTH, kept=20) as session:
        assert ask(session, *unknown) == expected[:3] and session.reused[1] == 0
        assert [ask(session, one)[0] for one in asked] == expected[:3]
        assert [ask(session, one)[0] for one in (*asked, *two)] == expected
    assert sum(seen) == 3 + 3 + 6, "of two pictures, the first one is known each time"


def test_a_prompt_ends_within_what_is_kept(model: Llava) -> None:
    whole = request(range(7, 47))
    with DecodingSession(model, 1, LENGTH, kept=2) as session:
        for asked in (whole, whole, request(range(7, 30)), request([*range(7, 27), 99, 98])):
            assert ask(session, asked) == [alone(model, asked)]
        assert session.reused == (40 + 40 + 23 + 22, 39 + 22 + 20)


def test_what_could_not_be_kept_is_not_gone_on_from(model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request(range(7, 47))
    with DecodingSession(model, 1, LENGTH, kept=1) as session:
        with monkeypatch.context() as patch:
            patch.setattr(session._stage.cache, "move", no_memory)
            assert ask(session, asked) == [alone(model, asked)], "which needs no copy"
        assert [ask(session, asked) for _ in range(2)] == [[alone(model, asked)]] * 2
        assert session.reused == (3 * 40, 39), "of the third alone"


def no_memory(*arguments: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_two_pictures_of_one_number_are_told_apart(model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "_code", lambda picture: -1)
    asked = [request([1, *IMAGE, 30, 31], [name]) for name in NAMES]
    expected = [alone(model, one) for one in asked]
    with DecodingSession(model, 3, LENGTH, kept=3) as session:
        assert [ask(session, one)[0] for one in (*asked, *asked)] == [*expected, *expected]
        assert session.reused[1] > 0


@pytest.mark.parametrize("graphs", [False, True])
def test_traffic_with_few_places(model: Llava, graphs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is overwritten all the time, rows move, and some are given up."""
    monkeypatch.setattr(steps, "_WINDOW", 32)
    drawn = random.Random(1)
    beginnings = [([1, *IMAGE, 8], ["red"]), ([1, *IMAGE, 8], ["blue"]), (list(range(50, 72)), []), ([1, 2], [])]
    asked = []
    for number in range(40):
        ids, pictures = drawn.choice(beginnings)
        sampling = replace(DRAWN, num_samples=drawn.choice([1, 1, 2]), max_new_tokens=drawn.randrange(1, 9))
        rest = [drawn.randrange(7, 500) for _ in range(drawn.randrange(1, 30))]
        asked.append(request([*ids, *rest], pictures, sampling, f"t{number}"))
    expected = {one.prompt.id: alone(model, one) for one in asked}
    answers: dict[str, list[GeneratedAnswer]] = {}
    rows: dict[int, str] = {}
    with DecodingSession(model, 6, LENGTH, graphs=graphs, kept=3) as session:
        while asked or session.busy:
            group = asked[: drawn.choice([1, 2, 3])]
            if group and session.room >= sum(one.sampling.num_samples for one in group):
                del asked[: len(group)]
                names = [one.prompt.id for one in group for _ in range(one.sampling.num_samples)]
                numbers = session.admit(group, images_of(group))
                rows |= dict(zip(numbers, names, strict=True))
                if drawn.random() < 0.2:
                    answers.pop(rows[numbers[0]], None)
                    expected.pop(rows[numbers[0]])
                    session.retire(numbers[0])
            for progress in session.step():
                if progress.finish_reason:
                    answers.setdefault(rows[progress.row], []).append((progress.row, session.retire(progress.row)))
        assert session.reused[1] > 200
    assert len(expected) > 25
    for name, known in expected.items():
        assert [answer for _, answer in sorted(answers[name], key=lambda one: one[0])] == known, name
