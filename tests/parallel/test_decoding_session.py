"""A decoding session: rows that join and leave at any time, each with settings of its own, answer as they do alone.

In float64, as where two tokens are about as probable rounding would choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nemo_mm_align.inference import steps
from nemo_mm_align.inference.decode import generate_batch
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.requests import EncodedPrompt
from nemo_mm_align.inference.rows import DecodingRequest, GeneratedAnswer
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.session import DecodingSession, NoRoom
from nemo_mm_align.model.llava import Llava
from tests.float64 import Float64
from tests.gpu import cpu_parity_worker as small

pytestmark = [pytest.mark.parallel, pytest.mark.usefixtures("process_group")]

KINDS = [
    SamplingSettings(temperature=0, max_new_tokens=14),
    SamplingSettings(temperature=1.3, top_k=40, max_new_tokens=9, num_samples=2, seed=3),
    SamplingSettings(temperature=0.8, top_p=0.9, max_new_tokens=20, seed=4),
    SamplingSettings(temperature=1.0, max_new_tokens=1, seed=5),
]
STOPS = frozenset(range(0, 500, 5))
LENGTH = 64


@pytest.fixture
def model() -> Iterator[Llava]:
    with Float64():
        yield small.build(None).double()


def requests(count: int = 9) -> list[DecodingRequest]:
    """Prompts of several lengths, with and without images, that are asked in different ways."""
    image, text = small.prompts()[0]
    found = []
    for number in range(count):
        ids = [image.ids, text.ids, list(range(7 + number, 7 + number + 5 + 3 * (number % 4)))][number % 3]
        paths = (Path("picture"),) if number % 3 == 0 else ()
        stops = STOPS if number % 2 else frozenset({-1})
        found.append(DecodingRequest(EncodedPrompt(f"r{number}", ids, paths), KINDS[number % len(KINDS)], stops))
    return found


def images_of(asked: list[DecodingRequest]) -> ImageBatch | None:
    pictures = sum(len(request.prompt.image_paths) for request in asked)
    pixels_NCHW = small.prompts()[1].pixels_NCHW
    return ImageBatch(pixels_NCHW, torch.zeros(pictures, dtype=torch.int64)) if pictures else None


def alone(model: Llava, request: DecodingRequest) -> list[GeneratedAnswer]:
    (answers,) = generate_batch(
        model, [request.prompt], images_of([request]), request.sampling, sorted(request.stop_ids), graphs=False
    )
    return answers


def run(
    session: DecodingSession, asked: list[DecodingRequest], together: int, every: int
) -> list[list[GeneratedAnswer]]:
    """Admit some requests every few steps, where there is room; retire answers as they end."""
    waiting, rows, answers, step = list(asked), {}, {}, 0
    while waiting or session.busy:
        group = waiting[:together]
        if group and step % every == 0 and session.room >= sum(item.sampling.num_samples for item in group):
            waiting = waiting[together:]
            numbers = iter(session.admit(group, images_of(group)))
            for item in group:
                rows[item.prompt.id] = [next(numbers) for _ in range(item.sampling.num_samples)]
        for progress in session.step():
            if progress.finish_reason:
                answers[progress.row] = session.retire(progress.row)
        step += 1
    return [[answers[row] for row in rows[item.prompt.id]] for item in asked]


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize(("slots", "together", "every"), [(3, 1, 1), (5, 2, 3), (40, 9, 1), (6, 3, 7)])
def test_an_answer_depends_on_its_request_alone(
    model: Llava, slots: int, together: int, every: int, graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_WINDOW", 16)
    asked = requests()
    expected = [alone(model, request) for request in asked]
    reasons = {answer.finish_reason for answers in expected for answer in answers}
    assert reasons == {"stop", "length"} and len({len(answers[0].ids) for answers in expected}) > 3
    with DecodingSession(model, slots, LENGTH, graphs=graphs) as session:
        assert run(session, asked, together, every) == expected
        assert session.room == slots and session.step() == []
        assert run(session, asked, together, every) == expected  # over what the first ones left in the cache
    assert model.training


def test_progress_tells_every_token(model: Llava) -> None:
    asked = requests()
    with DecodingSession(model, 20, LENGTH) as session:
        rows = session.admit(asked, images_of(asked))
        told = {row: [] for row in rows}
        ended = {}
        while session.busy:
            for progress in session.step():
                assert progress.row not in ended
                told[progress.row] += [] if progress.token is None else [progress.token]
                if progress.finish_reason:
                    ended[progress.row] = progress.finish_reason
        for row in rows:
            answer = session.retire(row)
            assert (told[row], ended[row]) == (answer.ids, answer.finish_reason)


def test_answers_that_are_given_up_make_room_and_disturb_nobody(model: Llava) -> None:
    asked = requests(4)
    expected = {request.prompt.id: alone(model, request) for request in asked}
    with DecodingSession(model, 5, LENGTH) as session:
        first, *rest = session.admit(asked, images_of(asked))
        with pytest.raises(NoRoom, match="1 answers asked for, and room for 0"):
            session.admit(asked[:1], images_of(asked[:1]))
        for _ in range(4):
            session.step()
        assert session.retire(first) == GeneratedAnswer(expected["r0"][0].ids[:4], "abort")
        with pytest.raises(KeyError):
            session.retire(first)
        (again,) = session.admit(asked[2:3])
        session.step()
        assert session.retire(session.admit(asked[3:4], images_of(asked[3:4]))[0]) == GeneratedAnswer([], "abort")
        assert session.step(), "a prompt that nobody waits for is passed over"
        while session.busy:
            session.step()
        found = [session.retire(row) for row in (*rest, again)]
    assert found == [*expected["r1"], *expected["r2"], *expected["r3"], *expected["r2"]]


def refused(session: DecodingSession, request: DecodingRequest, images: ImageBatch | None = None) -> str:
    with pytest.raises(ValueError) as caught:
        session.admit([request], images)
    assert not isinstance(caught.value, NoRoom) and not session.busy
    return str(caught.value)


def test_what_will_never_fit_is_refused(model: Llava) -> None:
    (request,) = requests(1)
    settings = SamplingSettings(max_new_tokens=2, stop=("x",))
    image = images_of([request])
    assert image is not None
    with DecodingSession(model, 1, request.length) as session:
        longer = replace(request, sampling=replace(request.sampling, max_new_tokens=15))
        assert f"{request.length + 1} positions, and room for {request.length} each" in refused(session, longer, image)
        assert "2 answers asked for at once, of 1 slots" in refused(session, replace(request, sampling=KINDS[1]), image)
        assert "can decode" in refused(session, DecodingRequest(EncodedPrompt("s", [7]), settings, STOPS))
        assert "16 image tokens, and 0 images" in refused(session, request)
        wrong = ImageBatch(image.pixels_NCHW, image.index_K + 1)
        assert "an image is named that is not there" in refused(session, request, wrong)
        for ids in ([], [-1], [small.CONFIG.language.vocab_size]):
            assert "is empty, or has tokens" in refused(
                session, DecodingRequest(EncodedPrompt("e", ids), KINDS[0], STOPS)
            )
    with pytest.raises(ValueError, match="and the model has"):
        DecodingSession(model, 1, small.CONFIG.language.max_position_embeddings + 1)


def test_a_prompt_that_cannot_be_computed_ends_and_the_others_go_on(
    model: Llava, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = requests(3)
    expected = [alone(model, request) for request in asked]
    with DecodingSession(model, 8, LENGTH) as session:
        first = session.admit(asked[:1], images_of(asked[:1]))
        session.step()
        broken = session.admit(asked[1:2])
        with monkeypatch.context() as patch:
            patch.setattr(model, "logits", lambda hidden: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                session.step()
        later = session.admit(asked[2:])
        while session.busy:
            session.step()
        assert [session.retire(row) for row in first] == expected[0]
        assert [session.retire(row) for row in later] == expected[2]
        assert {session.retire(row).finish_reason for row in broken} == {"abort"} and session.room == 8


def test_settings_of_another_kind_come_into_the_same_memory(model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole and broken temperatures, with and without filters; one window serves kinds that its own covers."""
    monkeypatch.setattr(steps, "_WINDOW", 64)
    base = DecodingRequest(EncodedPrompt("k", list(range(7, 17))), SamplingSettings(max_new_tokens=12), frozenset({-1}))
    kinds = [
        SamplingSettings(temperature=1, top_k=5, top_p=0.9, max_new_tokens=12),
        SamplingSettings(temperature=0.7, max_new_tokens=12),
        SamplingSettings(temperature=0, max_new_tokens=12),
        SamplingSettings(temperature=1.7, top_k=7, max_new_tokens=12),
    ]
    asked = [replace(base, sampling=kind) for kind in kinds]
    expected = [alone(model, request) for request in asked]
    assert len({tuple(answer.ids) for answers in expected for answer in answers}) > 2
    with DecodingSession(model, 1, LENGTH, graphs=True) as session:
        assert run(session, asked, 1, 1)[-1] == expected[-1]
        found = []
        for request in asked:
            rows = session.admit([request])
            while session.busy:
                session.step()
            found.append([session.retire(row) for row in rows])
        assert found == expected
        assert isinstance(session._steps, steps.GraphedSteps) and session._steps.windows == 1


def test_traffic_takes_few_windows(model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a graph, which takes as long to record as some 20 steps."""
    monkeypatch.setattr(steps, "_WINDOW", 64)
    asked = [
        DecodingRequest(
            EncodedPrompt(f"t{number}", list(range(7, 12 + number % 9))), KINDS[number % 4], frozenset({-1})
        )
        for number in range(60)
    ]
    with DecodingSession(model, 8, LENGTH, graphs=True) as session:
        run(session, asked, 1, 2)
        assert isinstance(session._steps, steps.GraphedSteps) and 1 < session._steps.windows < 12


def test_stop_texts_of_rows(model: Llava) -> None:
    """Beside rows without any; the token that completes the text is the answer's last."""
    plain = DecodingRequest(EncodedPrompt("p", [7, 8, 9]), SamplingSettings(0, max_new_tokens=12), frozenset({-1}))
    (whole,) = alone(model, plain)
    names = [f"<{token}>" for token in whole.ids]
    place = next(place for place in range(4, 12) if names[place] not in names[:place])
    stop = f"{names[place]}".removeprefix("<")
    settings = SamplingSettings(0, max_new_tokens=12, stop=(stop,))
    asked = [plain, DecodingRequest(plain.prompt, settings, frozenset({-1}))]
    with DecodingSession(model, 2, LENGTH, lambda ids: "".join(f"<{token}>" for token in ids)) as session:
        rows = session.admit(asked)
        while session.busy:
            session.step()
        found = [session.retire(row) for row in rows]
    text = "".join(names)
    assert found == [whole, GeneratedAnswer(whole.ids[: place + 1], "stop", text[: text.index(stop)])]
