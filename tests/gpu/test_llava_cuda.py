"""The model on a GPU: the same numbers as on the CPU, TransformerEngine's kernels against the local ones, a training step,
a checkpoint, FP8. Needs torch, megatron-core and pytest alone; skips itself where there is no CUDA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from nemo_mm_align.datasets.batch import Batch  # noqa: E402
from nemo_mm_align.model.config import (  # noqa: E402
    EngineConfig,
    LanguageConfig,
    LlavaConfig,
    LoRAConfig,
    ParallelConfig,
    VisionConfig,
)
from nemo_mm_align.model.layer_specs import transformer_engine_available  # noqa: E402
from nemo_mm_align.model.llava import Llava, build_llava  # noqa: E402
from nemo_mm_align.parallel import checkpoint, runtime  # noqa: E402
from nemo_mm_align.parallel.optimizer import OptimConfig  # noqa: E402
from nemo_mm_align.recipes.methods import build_method  # noqa: E402
from nemo_mm_align.recipes.step import TrainingEngine  # noqa: E402

needs_te = pytest.mark.skipif(not transformer_engine_available(), reason="TransformerEngine is not installed")

CONFIG = LlavaConfig(
    LanguageConfig(4, 256, 512, 8, 512, num_query_groups=4), VisionConfig(3, 128, 256, 4, 56, 14), image_token_id=511
)
ROWS, LENGTH = 4, 64


@pytest.fixture(autouse=True)
def one_process() -> None:
    os.environ.setdefault("MASTER_PORT", "29591")
    runtime.initialize(ParallelConfig(), 0)


def build(engine: EngineConfig, lora: LoRAConfig | None = None) -> Llava:
    model = build_llava(CONFIG, engine=engine, lora=lora)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator) * (0.1 if parameter.dim() == 1 else 0.05)
            parameter.copy_(noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return model


def batch(references: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(1)
    ids_BS = torch.randint(0, 500, (ROWS, LENGTH), generator=generator)
    ids_BS[:, 2:18] = CONFIG.image_token_id
    labels_BS = torch.randint(0, 500, (ROWS, LENGTH), generator=generator)
    labels_BS[:, :30] = -100
    made = Batch(
        input_ids_BS=ids_BS,
        labels_BS=labels_BS,
        position_ids_BS=torch.arange(LENGTH).expand(ROWS, -1).contiguous(),
        segment_ids_BS=torch.ones(ROWS, LENGTH, dtype=torch.long),
        images_NCHW=torch.randn(ROWS, 3, 56, 56, generator=generator),
        image_index_K=torch.arange(ROWS),
        sample_ids=("a", "b", "c", "d"),
        reference_log_probs_Q=torch.full((ROWS,), -200.0) if references else None,
    )
    return made.to("cuda")


def losses(model: Llava, data: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model(
            data.input_ids_BS, data.position_ids_BS, None, data.images_NCHW, data.labels_BS, data.image_index_K
        ).float()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_plain_rows_equal_rows_with_an_explicit_mask() -> None:
    model, data = build(EngineConfig(transformer_impl="local")), batch()
    mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool, device="cuda").tril().expand(ROWS, 1, -1, -1)
    with torch.no_grad():
        masked = model(
            data.input_ids_BS, data.position_ids_BS, mask, data.images_NCHW, data.labels_BS, data.image_index_K
        )
    assert relative(masked, losses(model, data)) <= 1e-4


@needs_te
def test_transformer_engine_equals_local_kernels() -> None:
    data = batch()
    local = losses(build(EngineConfig(transformer_impl="local")), data)
    fused = losses(build(EngineConfig(transformer_impl="transformer_engine")), data)
    assert relative(fused, local) <= 1e-4


def test_bf16_stays_near_fp32() -> None:
    data = batch()
    exact, rounded = losses(build(EngineConfig()), data), losses(build(EngineConfig(precision="bf16")), data)
    assert relative(rounded, exact) <= 2e-2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dpo_steps_lower_the_loss_and_survive_a_checkpoint(precision: str, tmp_path: Path) -> None:
    lora = LoRAConfig(8, 16, dropout=0.0)
    optim = OptimConfig(lr=5e-3, projector_lr=1e-3)

    def engine() -> TrainingEngine:
        return TrainingEngine(build(EngineConfig(precision=precision), lora), build_method("dpo"), optim, 10, seed=0)

    first, data = engine(), batch(references=True)
    values = [first.step([data], step).metrics["loss"] for step in range(4)]
    assert values[-1] < values[0]
    metadata = checkpoint.CheckpointMetadata(
        step=4, model=CONFIG.to_dict(), lora=vars(lora), template={}, attribute_schema=None, image_processor={}, recipe={},
        base_path="", base_fingerprint="", precision=precision,
    )  # fmt: skip
    folder = checkpoint.save(tmp_path, first.model, metadata, first.optimizer)
    expected = first.step([data], 4).metrics["loss"]
    second = engine()
    checkpoint.load(folder, second.model, second.optimizer)
    assert second.step([data], 4).metrics["loss"] == pytest.approx(expected, rel=1e-4)


@needs_te
@pytest.mark.parametrize("precision", ["fp8_delayed", "fp8_tensorwise"])
def test_fp8_trains_near_bf16(precision: str) -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no FP8 units")
    data = batch()
    curves = []
    for name in ("bf16", precision):
        engine = TrainingEngine(
            build(EngineConfig(precision=name)), build_method("sft"), OptimConfig(lr=1e-3), 10, seed=0
        )
        curves.append([engine.step([data], step).metrics["loss"] for step in range(6)])
    assert curves[1][-1] < curves[1][0]
    assert abs(curves[1][-1] - curves[0][-1]) <= 0.1 * curves[0][-1]
