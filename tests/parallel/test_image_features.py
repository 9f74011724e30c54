"""Pictures that are known by name are encoded once, and prompts with them answered as they are alone; in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from nemo_mm_align.inference.image_features import ImageFeatures
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.rows import DecodingRequest, GeneratedAnswer
from nemo_mm_align.inference.session import DecodingSession
from nemo_mm_align.model.llava import Llava
from tests.gpu import cpu_parity_worker as small
from tests.parallel import test_decoding_prefixes as prefixes
from tests.parallel.test_decoding_prefixes import IMAGE, LENGTH, NAMES, alone, encoded, model, request

__all__ = ["model"]
pytestmark = [pytest.mark.parallel, pytest.mark.usefixtures("process_group")]

PICTURE_BYTES = small.CONFIG.tokens_per_image * small.CONFIG.language.hidden_size * 8


def ask(session: DecodingSession, *asked: DecodingRequest) -> list[list[GeneratedAnswer]]:
    images = prefixes.images_of(asked)
    rows = iter(session.admit(asked, images and replace(images, names=NAMES)))
    while session.busy:
        session.step()
    return [[session.retire(next(rows)) for _ in range(one.sampling.num_samples)] for one in asked]


def asked_of(pictures: Sequence[str], start: int = 30) -> list[DecodingRequest]:
    return [request([1, start + number, *IMAGE, 8], [picture]) for number, picture in enumerate(pictures)]


def test_a_picture_is_encoded_once_whatever_is_asked_of_it(model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_of(["red", "blue", "red", "red", "blue"])
    two = request([1, *IMAGE, 5, *IMAGE, 30], ["blue", "green"])
    expected = [alone(model, one) for one in (*asked, two)]
    assert len({tuple(answer.ids) for answers in expected for answer in answers}) > 3
    seen = encoded(model, monkeypatch)
    with DecodingSession(model, 5, LENGTH) as session:
        assert ask(session, *asked) == expected[:5] and seen == [2], "once within a batch"
        assert [ask(session, one)[0] for one in asked] == expected[:5] and seen == [2]
        assert ask(session, two) == expected[5:] and seen == [2, 1], "known and new beside each other"
        assert session.pictures_reused == (5 + 5 + 2, 3 + 5 + 1)


def test_a_picture_outlives_its_kept_prompt(model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    red, blue = (request([1, *IMAGE, 30, 31, 32], [name]) for name in ("red", "blue"))
    expected = [alone(model, one) for one in (red, blue)]
    seen = encoded(model, monkeypatch)
    with DecodingSession(model, 2, LENGTH, kept=1) as session:
        for one, answers in zip((red, blue, red, red, blue), [*expected, expected[0], *expected], strict=True):
            assert ask(session, one) == [answers]
        assert session.reused[1] > 0 and session.pictures_reused == (4, 2), "the fourth prompt was kept whole"
    assert seen == [1, 1]


@pytest.mark.parametrize(("pictures", "encodings"), [(0, 7), (1, 6), (2, 4), (3, 3)])
def test_memory_is_bounded_and_the_least_recently_used_goes(
    model: Llava, monkeypatch: pytest.MonkeyPatch, pictures: int, encodings: int
) -> None:
    asked = asked_of(["red", "green", "red", "blue", "red", "red", "green"])
    expected = [alone(model, one) for one in asked]
    seen = encoded(model, monkeypatch)
    with DecodingSession(model, 1, LENGTH, image_bytes=pictures * PICTURE_BYTES + PICTURE_BYTES // 2) as session:
        assert [ask(session, one)[0] for one in asked] == expected
    assert sum(seen) == encodings


def test_names_tell_pictures_not_places(model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = encoded(model, monkeypatch)
    pixels_NCHW = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(3))
    features, index_K = ImageFeatures(model, 2 * PICTURE_BYTES), torch.tensor([2, 0, 1, 0])
    expected_KTH = model.encode_images(pixels_NCHW)[index_K]
    seen.clear()
    with torch.inference_mode():
        twice = ImageBatch(pixels_NCHW[[0, 1, 0, 2]], torch.tensor([3, 0, 1, 2]), ("a", "b", "a", "c"))
        for _ in range(2):
            found_KTH = features.of(twice.pixels_NCHW, twice.index_K, twice.names)
            torch.testing.assert_close(found_KTH, expected_KTH, rtol=1e-12, atol=1e-12)
    assert seen == [3, 1], "the first of three had to go"
    assert features.bytes == 2 * PICTURE_BYTES
