"""The model on a GPU: the same numbers as on the CPU, TransformerEngine's kernels against the local ones, a training step,
a checkpoint, FP8. Needs torch, megatron-core and pytest alone; skips itself where there is no CUDA."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from nemo_mm_align.datasets.batch import Batch  # noqa: E402
from nemo_mm_align.datasets.sample import CHOSEN, REJECTED  # noqa: E402
from nemo_mm_align.inference.decode import generate_batch  # noqa: E402
from nemo_mm_align.inference.prefill import ImageBatch  # noqa: E402
from nemo_mm_align.inference.requests import EncodedPrompt  # noqa: E402
from nemo_mm_align.inference.sampling_settings import SamplingSettings  # noqa: E402
from nemo_mm_align.model.attention import RowsOfTrees, segment_mask  # noqa: E402
from nemo_mm_align.model.config import (  # noqa: E402
    EngineConfig,
    LanguageConfig,
    Levers,
    LlavaConfig,
    LoRAConfig,
    ParallelConfig,
    VisionConfig,
    fp8_capability,
)
from nemo_mm_align.model.layer_specs import transformer_engine_available  # noqa: E402
from nemo_mm_align.model.llava import Llava, build_llava  # noqa: E402
from nemo_mm_align.model.trees import Tree, Trees  # noqa: E402
from nemo_mm_align.parallel import checkpoint, runtime  # noqa: E402
from nemo_mm_align.parallel.optim_config import OptimConfig  # noqa: E402
from nemo_mm_align.recipes.registry import find_recipe  # noqa: E402
from nemo_mm_align.training.step import TrainingEngine  # noqa: E402
from tests.distributed import run_distributed  # noqa: E402
from tests.gpu.cpu_parity_worker import draw  # noqa: E402

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
    draw(model)
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
        roles={CHOSEN: torch.arange(0, ROWS, 2), REJECTED: torch.arange(1, ROWS, 2)},
    )
    return made.to("cuda")


def losses(model: Llava, data: Batch) -> torch.Tensor:
    with torch.no_grad():
        hidden_SBH = model(data.input_ids_BS, data.position_ids_BS, None, data.images_NCHW, data.image_index_K)
        return model.token_losses(hidden_SBH, data.labels_BS).float()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_plain_rows_equal_rows_with_an_explicit_mask() -> None:
    model, data = build(EngineConfig(transformer_impl="local")), batch()
    mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool, device="cuda").tril().expand(ROWS, 1, -1, -1)
    with torch.no_grad():
        hidden_SBH = model(data.input_ids_BS, data.position_ids_BS, mask, data.images_NCHW, data.image_index_K)
        masked = model.token_losses(hidden_SBH, data.labels_BS)
    assert relative(masked, losses(model, data)) <= 1e-4


@pytest.mark.parametrize(("precision", "masked"), [("fp32", True), ("bf16", True), ("bf16", False)])
def test_shared_prefix_rows_equal_separate_rows(precision: str, masked: bool) -> None:
    """Row 0 and row 1 in one: 32 positions of prefix, then both branches; grouped heads, with a mask and without."""
    model, data = build(EngineConfig(precision, "local")), batch()
    prefix = 32
    data.input_ids_BS[1, :prefix] = data.input_ids_BS[0, :prefix]
    data.labels_BS[:, :prefix] = -100
    data.images_NCHW[1] = data.images_NCHW[0]
    separate = losses(model, data)[:2, prefix:].flatten()

    def joined(values_BS: torch.Tensor) -> torch.Tensor:
        return torch.cat([values_BS[0, :prefix], values_BS[0, prefix:], values_BS[1, prefix:]]).unsqueeze(0)

    segments = torch.tensor([[0] * prefix + [1] * (LENGTH - prefix) + [2] * (LENGTH - prefix)], device="cuda")
    with torch.no_grad():
        hidden_SBH = model(
            joined(data.input_ids_BS), joined(data.position_ids_BS), segment_mask(segments) if masked else None,
            data.images_NCHW[:1], data.image_index_K[:1],
            trees=None if masked else Trees.of(segments, torch.zeros_like(segments)),
        )  # fmt: skip
        together = model.token_losses(hidden_SBH, joined(data.labels_BS)).float()
    assert relative(together[0, prefix:], separate) <= (1e-4 if precision == "fp32" else 2e-2)


def one_pass(precision: str, levers: Levers) -> dict[str, torch.Tensor]:
    """Losses of a pass with adapters, and their gradients."""
    model, data = build(EngineConfig(precision, levers=levers), LoRAConfig(8, 16, dropout=0.0)), batch()
    hidden_SBH = model(data.input_ids_BS, data.position_ids_BS, None, data.images_NCHW, data.image_index_K)
    found = {"losses": model.token_losses(hidden_SBH, data.labels_BS)}
    found["losses"].sum().backward()
    return found | {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["lora", "mlp", "rope", "losses"])
def test_levers_change_no_number(precision: str, name: str) -> None:
    plain, pulled = one_pass(precision, Levers.only()), one_pass(precision, Levers.only(name))
    assert plain.keys() == pulled.keys()
    for key in plain if precision == "fp32" else ["losses"]:
        bound = 1e-4 if precision == "fp32" else 2e-2
        assert relative(pulled[key].detach().float(), plain[key].detach().float()) <= bound, key


def test_attention_without_a_mask_is_rounded_no_more_than_with_it() -> None:
    """Outputs and gradients of two rows of trees and padding, grouped heads, against the mask in fp32."""
    segments_BS = torch.tensor([[0] * 40 + [1] * 20 + [2] * 30 + [0] * 5 + [3] * 9 + [4] * 6, [1] * 70 + [-1] * 40])
    trees_BS = torch.tensor([[0] * 90 + [1] * 20, [0] * 70 + [-1] * 40])
    trees = Trees.of(segments_BS, trees_BS)
    assert trees.rows[0] == (Tree(0, 40, (20, 30)), Tree(90, 5, (9, 6)))
    mask, inside_SB1 = segment_mask(segments_BS, trees_BS).cuda(), (segments_BS >= 0).t().unsqueeze(2).cuda()
    drawn = [torch.randn(110, 2, heads, 64, device="cuda", dtype=torch.bfloat16) for heads in (8, 4, 4)]
    outside = torch.randn(110, 2, 512, device="cuda") * inside_SB1

    def with_mask(*given: torch.Tensor) -> torch.Tensor:
        query, key, value = (x.permute(1, 2, 0, 3) for x in given)
        key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.2)
        return output.permute(2, 0, 1, 3).flatten(2)

    def outcome(attend: Any, dtype: torch.dtype) -> list[torch.Tensor]:
        given = [x.to(dtype).requires_grad_() for x in drawn]
        output = attend(*given) * inside_SB1
        return [output, *torch.autograd.grad(output, given, outside.to(dtype))]

    layout = RowsOfTrees.on(torch.device("cuda"), trees)
    exact, rounded = (outcome(with_mask, dtype) for dtype in (torch.float32, torch.bfloat16))
    found = outcome(lambda *given: layout.attend(*given, 0.2), torch.bfloat16)
    for ours, theirs, expected in zip(found, rounded, exact, strict=True):
        assert relative(ours.float(), expected) <= 2 * relative(theirs.float(), expected)


@needs_te
def test_transformer_engine_equals_local_kernels() -> None:
    """In bf16; in fp32 TransformerEngine computes in TF32, so that ``auto`` is the local kernels there."""
    data = batch()
    local = losses(build(EngineConfig("bf16", "local")), data)
    fused = build(EngineConfig("bf16"))
    assert fused.transformer_impl == "transformer_engine"
    assert relative(losses(fused, data), local) <= 2e-2
    assert build(EngineConfig("fp32")).transformer_impl == "local"


def test_decoding_with_a_cache_equals_whole_passes() -> None:
    """Prompts of different lengths with and without an image, greedy, in fp32."""
    model, data = build(EngineConfig()), batch()
    model.eval()
    text = list(range(20, 33))
    prompts = [EncodedPrompt("a", data.input_ids_BS[0, :30].tolist()), EncodedPrompt("b", text)]
    images = ImageBatch(data.images_NCHW[:1].cpu(), torch.tensor([0]))
    settings = SamplingSettings(temperature=0, max_new_tokens=6)
    answers = [answer.ids for (answer,) in generate_batch(model, prompts, images, settings, [CONFIG.image_token_id])]
    for prompt, pixels, answer in zip(prompts, (data.images_NCHW[:1], None), answers, strict=True):
        ids_BS = torch.tensor([prompt.ids + answer], device="cuda")
        positions_BS = torch.arange(ids_BS.shape[1], device="cuda").unsqueeze(0)
        with torch.no_grad():
            logits_BSV = model.logits(model(ids_BS, positions_BS, None, pixels))
        logits_BSV[..., CONFIG.image_token_id] = float("-inf")
        chosen_from_AV = logits_BSV[0, len(prompt.ids) - 1 : -1]
        taken_A = chosen_from_AV.gather(1, torch.tensor(answer, device="cuda").unsqueeze(1)).squeeze(1)
        # the most probable, or one that rounding cannot tell from it
        assert float((chosen_from_AV.amax(dim=1) - taken_A).max()) <= 1e-4 * float(taken_A.abs().max())


def test_bf16_stays_near_fp32() -> None:
    data = batch()
    exact, rounded = losses(build(EngineConfig()), data), losses(build(EngineConfig(precision="bf16")), data)
    assert relative(rounded, exact) <= 2e-2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dpo_steps_lower_the_loss_and_survive_a_checkpoint(precision: str, tmp_path: Path) -> None:
    lora = LoRAConfig(8, 16, dropout=0.0)
    optim = OptimConfig(lr=5e-3, projector_lr=1e-3)

    def engine() -> TrainingEngine:
        return TrainingEngine(
            build(EngineConfig(precision=precision), lora), find_recipe("dpo").configured(), optim, 10, seed=0
        )

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


def metadata(precision: str) -> checkpoint.CheckpointMetadata:
    return checkpoint.CheckpointMetadata(
        step=4, model=CONFIG.to_dict(), lora=None, template={}, attribute_schema=None, image_processor={}, recipe={},
        base_path="", base_fingerprint="", precision=precision,
    )  # fmt: skip


def sft(model: Llava, distributed: bool = False) -> TrainingEngine:
    optim = OptimConfig(lr=1e-3, use_distributed_optimizer=distributed)
    return TrainingEngine(model, find_recipe("sft").configured(), optim, 20, seed=0)


def trained(engine: EngineConfig, steps: int, distributed: bool = False) -> TrainingEngine:
    made, data = sft(build(engine), distributed), batch()
    for step in range(steps):
        made.step([data], step)
    return made


@needs_te
@pytest.mark.parametrize("distributed", [False, True])
@pytest.mark.parametrize("precision", ["bf16", "fp8_delayed", "fp8_tensorwise", "fp8_blockwise"])
def test_a_resume_goes_on_as_if_nothing_had_happened(precision: str, distributed: bool, tmp_path: Path) -> None:
    """Weights, their fp32 copies, moments and FP8 scales: all come back."""
    skip_without_units(precision)
    first = trained(EngineConfig(precision), 4, distributed)
    folder = checkpoint.save(tmp_path, first.model, metadata(precision), first.optimizer)
    second = trained(EngineConfig(precision), 0, distributed)
    checkpoint.load(folder, second.model, second.optimizer)
    data = batch()
    expected, found = ([one.step([data], step).metrics["loss"] for step in range(4, 8)] for one in (first, second))
    assert found == pytest.approx(expected, rel=1e-4)


@needs_te
@pytest.mark.parametrize(
    ("source", "target"),
    [
        (EngineConfig("bf16", "local"), EngineConfig("bf16")),
        (EngineConfig("bf16"), EngineConfig("bf16", "local")),
        (EngineConfig("bf16"), EngineConfig("fp8_delayed")),
        (EngineConfig("fp8_delayed"), EngineConfig("bf16", "local")),
        (EngineConfig("fp8_tensorwise"), EngineConfig("fp32")),
    ],
)
def test_complete_checkpoints_open_with_other_kernels(
    source: EngineConfig, target: EngineConfig, tmp_path: Path
) -> None:
    skip_without_units(source.precision)
    skip_without_units(target.precision)
    first = trained(source, 1)
    folder = checkpoint.save(tmp_path, first.model, metadata(source.precision))
    second = build_llava(CONFIG, engine=target)
    checkpoint.load(folder, second)
    kept = dict(first.model.named_parameters())
    assert all(torch.equal(kept[name].float(), found.float()) for name, found in second.named_parameters())


def skip_without_units(precision: str) -> None:
    if precision.startswith("fp8") and torch.cuda.get_device_capability() < fp8_capability(precision):
        pytest.skip(f"no units for {precision}")


@needs_te
def test_delayed_scaling_computes_references_in_bf16() -> None:
    """Its scales are 1 before the first training step, when reference log-probs are taken."""
    skip_without_units("fp8_delayed")
    data = batch()
    fresh, rounded = build(EngineConfig("fp8_delayed")), build(EngineConfig("bf16"))
    assert relative(losses(fresh, data), losses(rounded, data)) <= 1e-6
    assert fresh.config.fp8 == "hybrid"


@needs_te
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("lora", [None, LoRAConfig(8, 16, dropout=0.0)])
@pytest.mark.parametrize("precision", ["fp8_delayed", "fp8_tensorwise", "fp8_blockwise"])
def test_fp8_trains_near_bf16(precision: str, lora: LoRAConfig | None, recompute: str) -> None:
    skip_without_units(precision)
    data = batch()
    curves = []
    for name in ("bf16", precision):
        engine = TrainingEngine(
            build(EngineConfig(name, recompute=recompute), lora),
            find_recipe("sft").configured(),
            OptimConfig(lr=1e-3),
            10,
            seed=0,
        )  # fmt: skip
        curves.append([engine.step([data], step).metrics["loss"] for step in range(6)])
    assert curves[1][-1] < curves[1][0]
    assert abs(curves[1][-1] - curves[0][-1]) <= 0.1 * curves[0][-1]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 2e-2), ("fp8_tensorwise", 0.1)])
def test_two_gpus_equal_one(precision: str, tolerance: float, tmp_path: Path) -> None:
    """Tensor and sequence parallel over NCCL, from the same checkpoint."""
    skip_without_units(precision)
    if precision.startswith("fp8") and not transformer_engine_available():
        pytest.skip("TransformerEngine is not installed")
    model, data = build(EngineConfig(precision)), batch()
    folder = checkpoint.save(tmp_path, model, metadata(precision))
    expected, engine = losses(model, data), sft(model)
    steps = [engine.step([data], step).metrics["loss"] for step in range(3)]
    run_distributed("tests/gpu/tensor_parallel_worker.py", 2, folder, tmp_path / "found.json", precision)
    found = json.loads((tmp_path / "found.json").read_text())
    assert relative(torch.tensor(found["token_losses"], device=expected.device), expected) <= tolerance
    assert found["steps"] == pytest.approx(steps, rel=tolerance)
