"""A decoding session: rows that join and leave at any time, each with settings of its own, answer as they do alone.

In float64, as where two tokens are about as probable rounding would choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nemo_mm_align.inference import steps
from nemo_mm_align.inference.decode import generate_batch
from nemo_mm_align.inference.requests import EncodedPrompt
from nemo_mm_align.inference.rows import DecodingRequest, GeneratedAnswer, text_before
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.session import DecodingSession, ImageBatch
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
        with pytest.raises(ValueError, match="1 answers asked for, and room for 0"):
            session.admit(asked[:1], images_of(asked[:1]))
        for _ in range(4):
            session.step()
        assert session.retire(first) == GeneratedAnswer(expected["r0"][0].ids[:4], "abort")
        with pytest.raises(KeyError):
            session.retire(first)
        (again,) = session.admit(asked[2:3])
        (unseen,) = session.admit(asked[3:4], images_of(asked[3:4]))
        assert session.retire(unseen) == GeneratedAnswer([], "abort")
        while session.busy:
            session.step()
        found = [session.retire(row) for row in (*rest, again)]
    assert found == [*expected["r1"], *expected["r2"], *expected["r3"], *expected["r2"]]


def test_what_does_not_fit_is_refused(model: Llava) -> None:
    (request,) = requests(1)
    with DecodingSession(model, 1, request.length - 1) as session:
        with pytest.raises(
            ValueError, match=f"a request of {request.length} positions, and room for {request.length - 1}"
        ):
            session.admit([request], images_of([request]))
        with pytest.raises(ValueError, match="can decode"):
            session.admit(
                [DecodingRequest(EncodedPrompt("s", [7]), SamplingSettings(max_new_tokens=2, stop=("x",)), STOPS)]
            )
        assert not session.busy


def letters(ids: list[int]) -> str:
    return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("stops", "text"),
    [(("END",), "abc"), (("END", "bcE"), "a"), (("c",), "ab"), (("\n\n",), None), (("D", "E"), "abc"), (("a",), "")],
)
def test_an_answer_ends_before_its_first_stop_text(stops: tuple[str, ...], text: str | None) -> None:
    ids = [ord(letter) for letter in "abcEND of it"]
    cuts = [text_before(stops, ids[:end], letters) for end in range(1, len(ids) + 1)]
    assert next((cut for cut in cuts if cut is not None), None) == text


def test_a_stop_text_is_found_late_in_a_long_answer_and_within_a_token() -> None:
    ids = list(range(300))
    decoded = []

    def decode(some: list[int]) -> str:
        decoded.append(len(some))
        return "".join(f"<{token}>" for token in some)

    found = [text_before(("9><27", "zz"), ids[:end], decode) for end in range(1, 301)]
    assert next(end for end, text in enumerate(found, start=1) if text is not None) == 271
    assert found[270] == "".join(f"<{token}>" for token in range(269)) + "<26"
    assert all(length < 40 for length in decoded[:270]), "long answers are not decoded anew for each token"


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
