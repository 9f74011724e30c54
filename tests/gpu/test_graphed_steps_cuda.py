"""Decoding from recorded CUDA graphs: the tokens of decoding by calls, and really from graphs."""

from __future__ import annotations

import logging
import os

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from nemo_mm_align.inference import steps  # noqa: E402
from nemo_mm_align.inference.decode import generate_batch  # noqa: E402
from nemo_mm_align.inference.requests import EncodedPrompt  # noqa: E402
from nemo_mm_align.inference.sampling_settings import SamplingSettings  # noqa: E402
from nemo_mm_align.inference.session import DecodingSession  # noqa: E402
from nemo_mm_align.model.config import EngineConfig, ParallelConfig  # noqa: E402
from nemo_mm_align.model.llava import Llava, build_llava  # noqa: E402
from nemo_mm_align.parallel import runtime  # noqa: E402
from tests.gpu import cpu_parity_worker as small  # noqa: E402
from tests.parallel import test_decoding_session as sessions  # noqa: E402

GREEDY = SamplingSettings(temperature=0, max_new_tokens=40)
SAMPLED = SamplingSettings(temperature=1.5, top_k=40, top_p=0.95, max_new_tokens=40, num_samples=3, seed=5)


@pytest.fixture(autouse=True)
def one_process() -> None:
    os.environ.setdefault("MASTER_PORT", "29599")
    runtime.initialize(ParallelConfig(), 0)


def answers(model: Llava, settings: SamplingSettings, graphs: bool, stops: list[int]) -> list[list[list[int]]]:
    encoded, images = small.prompts()
    encoded += [EncodedPrompt(str(number), list(range(7 + number, 16 + number))) for number in range(4)]
    found = generate_batch(model, encoded, images, settings, stops, graphs=graphs)
    return [[answer.ids for answer in row] for row in found]


@pytest.mark.parametrize("window", [16, 256])
@pytest.mark.parametrize("settings", [GREEDY, SAMPLED])
def test_graphs_give_the_same_tokens(
    settings: SamplingSettings, window: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In fp32; windows that fill up, and rows that leave."""
    monkeypatch.setattr(steps, "_WINDOW", window)
    model = small.build(None)
    free = answers(model, settings, False, [-1])
    stops = sorted({row[0][5 + place] for place, row in enumerate(free)})
    with caplog.at_level(logging.WARNING):
        assert answers(model, settings, True, [-1]) == free
        assert answers(model, settings, True, stops) == answers(model, settings, False, stops)
    assert "without CUDA graphs" not in caplog.text


def test_rows_that_join_and_leave_under_graphs(caplog: pytest.LogCaptureFixture) -> None:
    """In fp32; with settings of several kinds, into memory that a graph reads already."""
    model, asked = small.build(None), sessions.requests()
    found = {}
    with caplog.at_level(logging.WARNING):
        for graphs in (False, True):
            with DecodingSession(model, 5, sessions.LENGTH, graphs=graphs) as session:
                found[graphs] = sessions.run(session, asked, 2, 3)
                windows = getattr(session._steps, "windows", 0)
    assert found[True] == found[False] and 0 < windows < 20
    assert "CUDA graph" not in caplog.text


def test_graphs_of_fused_kernels(caplog: pytest.LogCaptureFixture) -> None:
    """In bf16, where rounding may choose another token now and then."""
    model = build_llava(small.CONFIG, engine=EngineConfig("bf16"))
    with caplog.at_level(logging.WARNING):
        found, expected = (answers(model, GREEDY, graphs, [-1]) for graphs in (True, False))
    assert "without CUDA graphs" not in caplog.text
    equal = sum(
        one == other for row, rows in zip(found, expected, strict=True) for one, other in zip(row, rows, strict=True)
    )
    assert equal >= len(found) / 2
