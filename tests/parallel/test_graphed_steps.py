"""Decoding within fixed memory, as it is recorded on a GPU, gives the tokens of decoding by calls."""

from __future__ import annotations

import pytest
import torch

from nemo_mm_align.inference import steps
from nemo_mm_align.inference.decode import generate_batch
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.requests import EncodedPrompt
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from tests.gpu import cpu_parity_worker as small

pytestmark = [pytest.mark.parallel, pytest.mark.usefixtures("process_group")]

GREEDY = SamplingSettings(temperature=0, max_new_tokens=24)
SAMPLED = SamplingSettings(temperature=1.5, top_k=40, top_p=0.95, max_new_tokens=24, num_samples=3, seed=5)


def prompts(ragged: bool) -> tuple[list[EncodedPrompt], ImageBatch]:
    (image, text), images = small.prompts()
    others = [
        EncodedPrompt(str(number), list(range(7 + number, 7 + number + (9 if ragged else 30)))) for number in range(4)
    ]
    return [image, *([text] if ragged else []), *others], images


@pytest.mark.parametrize("window", [4, 256])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("settings", [GREEDY, SAMPLED])
def test_fixed_memory_gives_the_same_tokens(
    settings: SamplingSettings, ragged: bool, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows that fill up, rows that end at different steps, and padding on the left."""
    monkeypatch.setattr(steps, "_WINDOW", window)
    model = small.build(None)
    encoded, images = prompts(ragged)
    free = generate_batch(model, encoded, images, settings, [-1], graphs=False)
    stops = sorted({answer.ids[3 + row] for row, answers in enumerate(free) for answer in answers})
    expected, found = (generate_batch(model, encoded, images, settings, stops, graphs=on) for on in (False, True))
    assert found == expected
    lengths = {len(answer.ids) for answers in expected for answer in answers}
    assert len(lengths) > 2 and min(lengths) < settings.max_new_tokens  # rows did leave
    assert generate_batch(model, encoded, images, settings, [-1], graphs=True) == free


def test_nothing_behind_the_window_counts() -> None:
    """Columns that hold nothing yet are hidden: what lies there must not change the answer."""
    model = small.build(None)
    encoded, images = prompts(True)
    expected = generate_batch(model, encoded, images, GREEDY, [-1], graphs=False)
    made = torch.Tensor.new_zeros
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "new_zeros", lambda self, *shape, **kw: made(self, *shape, **kw) + 7)
        assert generate_batch(model, encoded, images, GREEDY, [-1], graphs=True) == expected
