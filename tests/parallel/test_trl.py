"""A LLaVA with images in TRL's DPOTrainer and in our engine: the same losses, step by step, through both ways to log-probs.

Both in float64, where later steps' losses, which follow from gradients and updates by AdamW, tell no rounding either.
Gradients are not clipped: megatron-core clips fp32 alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_mm_align.benchmarks.agreed import OPTIM
from nemo_mm_align.benchmarks.engine import EngineTraining
from nemo_mm_align.benchmarks.pairs import PairSizes, batch_of, draw_pairs, samples_of
from nemo_mm_align.benchmarks.random_models import IMAGE_ID, write_random_model
from nemo_mm_align.benchmarks.trl_peer import TrlPairs
from nemo_mm_align.model.config import LanguageConfig, LlavaConfig, VisionConfig
from tests.float64 import TOLERANCE, Float64

pytest.importorskip("trl", minversion="1.0")
pytestmark = pytest.mark.parallel

CONFIG = LlavaConfig(
    LanguageConfig(num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, vocab_size=50),
    VisionConfig(3, 32, 64, 4, image_size=28, patch_size=14),
    image_token_id=IMAGE_ID,
)
PAIRS = draw_pairs(CONFIG, PairSizes(pairs=3, prompt_words=5, answer_words=(3, 6)), seed=0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("policy", "reference")):
        write_random_model(folder / name, CONFIG, seed)
    return folder


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(
    "loss",
    [
        {"beta": 0.5, "loss_type": "sigmoid"},
        {"beta": 0.5, "loss_type": ["ipo", "apo_down"], "loss_weights": [0.4, 1.0]},
    ],
)
@pytest.mark.parametrize("shared_prefix", [False, True])
def test_a_model_with_images_trains_as_in_trl(
    loss: dict[str, Any], shared_prefix: bool, models: Path, tmp_path: Path
) -> None:
    with Float64():
        trl = TrlPairs(models / "policy", models / "reference", PAIRS, replace(OPTIM, clip_grad=1e9), loss, tmp_path)
        ours = EngineTraining(
            models / "policy", "dpo", models / "reference", changes=loss, optim=replace(OPTIM, clip_grad=0)
        )
        batch = batch_of(samples_of(PAIRS, CONFIG), CONFIG, trl.batch["pixel_values"], shared_prefix)
        losses = [(ours.step([batch], recompute=True), trl.step()) for _ in range(3)]
    assert losses[2][1] < losses[1][1] < losses[0][1]
    for found, expected in losses:
        assert found == pytest.approx(expected, rel=TOLERANCE)
