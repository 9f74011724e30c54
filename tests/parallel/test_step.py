"""One optimizer step in one process: whose rate counts for which part, what clipping does, where dropout comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nemo_mm_align.model.config import EngineConfig, LoRAConfig
from nemo_mm_align.model.huggingface import llava_config_from_hf, load_huggingface
from nemo_mm_align.model.llava import Llava, build_llava, set_trainable
from nemo_mm_align.parallel.optim_config import OptimConfig
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.training.step import TrainingEngine
from tests.tiny_llava import make_llava, micro_batch

pytestmark = pytest.mark.usefixtures("process_group")

LINEAR = {"lr": 1e3, "eps": 1e3, "projector_lr": None, "schedule": "constant", "warmup_ratio": 0.0}
"""AdamW's first step is rate x gradient / (|gradient| + eps): with these, the gradient itself."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava(tmp_path_factory.mktemp("model") / "llava")


def build(folder: Path, lora: LoRAConfig | None = None) -> Llava:
    model = build_llava(llava_config_from_hf(folder), engine=EngineConfig(), lora=lora, initialize=False)
    load_huggingface(model, folder)
    set_trainable(model, language=lora is None, projector=True, vision=False, adapters=True)
    return model


def change(folder: Path, **optim: object) -> tuple[dict[str, Tensor], float]:
    """What one step changes, by part, and the norm of its gradient."""
    model = build(folder)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    engine = TrainingEngine(model, find_recipe("sft").configured(), OptimConfig(**optim), total_steps=10, seed=0)  # type: ignore[arg-type]
    norm = engine.step([micro_batch(0)], 0).metrics["gradient_norm"]
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        parts.setdefault(name.split(".")[0], []).append((parameter.detach() - before[name]).flatten())
    return {part: torch.cat(tensors) for part, tensors in parts.items()}, norm


def test_projector_and_language_model_train_at_their_own_rates(folder: Path) -> None:
    changes, _ = change(folder, lr=1e-3, projector_lr=1e-4, schedule="constant", warmup_ratio=0.0)
    largest = {part: float(values.abs().max()) for part, values in changes.items()}
    assert largest.pop("language_model") == pytest.approx(1e-3, rel=1e-3)
    assert largest.pop("projector") == pytest.approx(1e-4, rel=1e-2)
    assert set(largest.values()) == {0.0}, "the vision tower is frozen"


def test_clipping_scales_the_whole_gradient(folder: Path) -> None:
    def length(clip_grad: float) -> tuple[float, float]:
        changes, norm = change(folder, **LINEAR, clip_grad=clip_grad)
        return float(torch.cat(list(changes.values())).norm()), norm

    unclipped, norm = length(0.0)
    clipped, same_norm = length(norm / 4)
    assert same_norm == pytest.approx(norm, rel=1e-5), "the norm that is reported is that before clipping"
    assert unclipped == pytest.approx(norm, rel=1e-2)
    assert clipped == pytest.approx(norm / 4, rel=1e-2)


def test_dropout_follows_the_step_number_alone(folder: Path) -> None:
    model = build(folder, LoRAConfig(rank=4, alpha=8, dropout=0.5))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".adapters." in name:
                parameter.normal_(std=0.2)  # a fresh adapter gives nothing that dropout could change
    optim = OptimConfig(lr=1e-12, projector_lr=None)
    engine = TrainingEngine(model, find_recipe("sft").configured(), optim, total_steps=10, seed=0)
    first, second, again = (engine.step([micro_batch(0)], step).metrics["loss"] for step in (3, 4, 3))
    assert first == pytest.approx(again, rel=1e-6)
    assert abs(first - second) > 1e-3
