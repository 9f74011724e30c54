"""Checkpoints across number formats: bf16 goes on from its fp32 weights; FP8's extra states are read where they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nemo_mm_align.model.config import EngineConfig, LanguageConfig, LlavaConfig, LoRAConfig, VisionConfig
from nemo_mm_align.model.huggingface import llava_config_from_hf, load_huggingface
from nemo_mm_align.model.llava import build_llava
from nemo_mm_align.parallel import checkpoint
from nemo_mm_align.parallel.optim_config import OptimConfig
from nemo_mm_align.parallel.sharded_state import model_entries, without_absent_extra_states
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.training.step import TrainingEngine
from tests.tiny_llava import make_llava, micro_batch

pytestmark = pytest.mark.usefixtures("process_group")
LORA = LoRAConfig(rank=4, alpha=8, dropout=0.0)


def metadata(config: LlavaConfig, lora: LoRAConfig | None, precision: str) -> checkpoint.CheckpointMetadata:
    return checkpoint.CheckpointMetadata(
        step=2, model=config.to_dict(), lora=vars(lora) if lora else None, template={}, attribute_schema=None,
        image_processor={}, recipe={}, base_path="", base_fingerprint="", precision=precision,
    )  # fmt: skip


def engine(folder: Path) -> TrainingEngine:
    config = llava_config_from_hf(folder)
    model = build_llava(config, engine=EngineConfig("bf16"), lora=LORA, initialize=False)
    load_huggingface(model, folder)
    return TrainingEngine(model, find_recipe("sft").configured(), OptimConfig(lr=1e-4, schedule="constant"), 20, seed=0)


def test_bf16_goes_on_from_its_fp32_weights(tmp_path: Path) -> None:
    """Small steps are lost in bf16: after a resume from rounded weights the norms of later gradients differ."""
    folder = make_llava(tmp_path / "llava")
    first = engine(folder)
    for step in range(2):
        first.step([micro_batch(step)], step)
    saved = checkpoint.save(tmp_path, first.model, metadata(first.model.model_config, LORA, "bf16"), first.optimizer)
    second = engine(folder)
    checkpoint.load(saved, second.model, second.optimizer)
    pairs = list(zip(first.optimizer.get_parameters(), second.optimizer.get_parameters(), strict=True))
    assert all(kept.dtype == torch.float32 and torch.equal(kept, found) for kept, found in pairs)
    assert any(not torch.equal(kept, kept.bfloat16().float()) for kept, _ in pairs), "nothing was at stake"
    # to the bit: the same kernels on the same shapes, one after the other
    expected = [first.step([micro_batch(step)], step).metrics for step in range(2, 6)]
    assert [second.step([micro_batch(step)], step).metrics for step in range(2, 6)] == expected


def test_extra_states_that_a_checkpoint_lacks_are_not_asked_for(tmp_path: Path) -> None:
    config = LlavaConfig(LanguageConfig(2, 64, 128, 4, 97), VisionConfig(2, 32, 64, 4, 28, 14), image_token_id=96)
    model = build_llava(config)
    everything = model.sharded_state_dict()
    extra = {name for name in everything if name.endswith("_extra_state")}
    plain = checkpoint.save(tmp_path / "plain", model, metadata(config, None, "fp32"))
    kept = without_absent_extra_states(everything, plain / checkpoint.STATE_FOLDER)
    assert extra and set(everything) - set(kept) == extra
    adapted = build_llava(config, lora=LORA)
    own = checkpoint.save(tmp_path / "lora", adapted, metadata(config, LORA, "fp32"))
    entries = model_entries(adapted, adapted=True)
    assert any(name.endswith("_extra_state") for name in entries)
    assert without_absent_extra_states(entries, own / checkpoint.STATE_FOLDER) == entries
