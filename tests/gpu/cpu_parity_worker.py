"""Worker of test_cpu_parity_cuda: losses and steps of a small model in fp32 on whatever device this process sees, as JSON.

python tests/gpu/cpu_parity_worker.py RESULTS
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.sample import CHOSEN, REJECTED
from nemo_mm_align.inference.decode import generate_batch
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.requests import EncodedPrompt
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.model.config import (
    EngineConfig,
    LanguageConfig,
    LlavaConfig,
    LoRAConfig,
    ParallelConfig,
    VisionConfig,
)
from nemo_mm_align.model.head_config import HeadConfig, Pooling
from nemo_mm_align.model.llava import Llava, build_llava
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.optim_config import OptimConfig
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.training import reference
from nemo_mm_align.training.step import TrainingEngine

CONFIG = LlavaConfig(
    LanguageConfig(4, 96, 240, num_attention_heads=8, vocab_size=515, num_query_groups=4),
    VisionConfig(3, 64, 128, num_attention_heads=4, image_size=56, patch_size=14),
    image_token_id=514,
)
LORA = LoRAConfig(8, 16, dropout=0.0)
ROWS, LENGTH, PREFIX = 4, 50, 24  # no multiple of anything


ATTRIBUTES = ("depth", "length", "tone")


def build(lora: LoRAConfig | None, head: HeadConfig | None = None) -> Llava:
    """The model with every tensor drawn on the CPU, adapters' B too, so that both devices hold the same."""
    model = build_llava(CONFIG, lora=lora, head=head, engine=EngineConfig("fp32"))
    draw(model)
    return model


def draw(model: Llava) -> None:
    """Draw all tensors from one generator of the CPU, in the order of their names; norms around one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator) * (0.1 if parameter.dim() == 1 else 0.05)
            parameter.copy_(noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))


def pair_roles() -> dict[str, torch.Tensor]:
    """Sequences chosen and rejected in turn."""
    return {CHOSEN: torch.arange(0, ROWS, 2), REJECTED: torch.arange(1, ROWS, 2)}


def batch(shared: bool) -> Batch:
    """Rows with an image each; with `shared`, rows 0 and 1, 2 and 3 are the branches of one prefix."""
    generator = torch.Generator().manual_seed(1)
    ids_BS = torch.randint(0, 500, (ROWS, LENGTH), generator=generator)
    ids_BS[:, 2:18] = CONFIG.image_token_id
    labels_BS = torch.randint(0, 500, (ROWS, LENGTH), generator=generator)
    labels_BS[:, :PREFIX] = -100
    positions_BS = torch.arange(LENGTH).expand(ROWS, -1).contiguous()
    segments_BS = torch.ones(ROWS, LENGTH, dtype=torch.long)
    images_NCHW = torch.randn(ROWS, 3, 56, 56, generator=generator)
    if not shared:
        return Batch(
            ids_BS, labels_BS, positions_BS, segments_BS, images_NCHW, torch.arange(ROWS), ("a", "b", "c", "d"),
            roles=pair_roles(),
        )  # fmt: skip
    tail = LENGTH - PREFIX

    def joined(values_BS: torch.Tensor) -> torch.Tensor:
        return torch.cat([values_BS[::2], values_BS[1::2, PREFIX:]], dim=1)

    branches = torch.tensor([[0] * PREFIX + [1] * tail + [2] * tail] * (ROWS // 2))
    return Batch(
        joined(ids_BS), joined(labels_BS), joined(positions_BS), branches, images_NCHW[::2],
        torch.arange(ROWS // 2), ("a", "b"), roles=pair_roles(),
    )  # fmt: skip


def steps(method: str, lora: LoRAConfig | None, shared: bool) -> list[dict[str, float]]:
    """Metrics of four optimizer steps; DPO's reference log-probs are computed on the device, too."""
    model, data = build(lora), batch(shared)
    if method == "dpo":
        values = reference.compute(model.eval(), [data])
        data = replace(data, reference_log_probs_Q=values.cpu())
    engine = TrainingEngine(
        model, find_recipe(method).configured(), OptimConfig(lr=1e-3, projector_lr=5e-4), 10, seed=0
    )
    return [engine.step([data], step).metrics for step in range(4)]


def attribute_dpo_steps() -> list[dict[str, float]]:
    """One sample with a flip line: chosen and rejected, then the same two answers in the other order."""
    model = build(LORA)
    data = replace(
        batch(False), sequence_counts=(4,), roles={CHOSEN: torch.tensor([0, 3]), REJECTED: torch.tensor([1, 2])}
    )
    data = replace(data, reference_log_probs_Q=reference.compute(model.eval(), [data]).cpu())
    objective = find_recipe("attribute_dpo").configured(contrast_weight=1.0, anchor_weight=0.5)
    engine = TrainingEngine(model, objective, OptimConfig(lr=1e-3, projector_lr=5e-4), 10, seed=0)
    return [engine.step([data], step).metrics for step in range(4)]


def rating_steps(pooling: Pooling, loss_function: str) -> list[dict[str, float]]:
    """An attribute model's steps on shared rows, one value missing."""
    model = build(LORA, HeadConfig(ATTRIBUTES, pooling))
    targets_QT = torch.rand(ROWS, len(ATTRIBUTES), generator=torch.Generator().manual_seed(2)) * 4
    targets_QT[1, 2] = math.nan
    data = replace(batch(True), targets_QT=targets_QT, sequence_counts=(2, 2))
    objective = find_recipe("attribute_model").configured(
        pooling=pooling, loss_function=loss_function, weights=dict.fromkeys(ATTRIBUTES, 1.0)
    )
    engine = TrainingEngine(model, objective, OptimConfig(lr=1e-3, projector_lr=5e-4), 10, seed=0)
    return [engine.step([data], step).metrics for step in range(4)]


def prompts() -> tuple[list[EncodedPrompt], ImageBatch]:
    """Prompts of unequal length, with and without an image."""
    data = batch(False)
    assert data.images_NCHW is not None
    encoded = [EncodedPrompt("a", data.input_ids_BS[0, :30].tolist()), EncodedPrompt("b", list(range(20, 33)))]
    return encoded, ImageBatch(data.images_NCHW[:1], torch.tensor([0]))


def answers() -> list[list[int]]:
    """Greedy answers."""
    settings = SamplingSettings(temperature=0, max_new_tokens=12)
    found = generate_batch(build(None), *prompts(), settings, [CONFIG.image_token_id])
    return [answer.ids for (answer,) in found]


CASES: dict[str, Callable[[], object]] = {
    "sft, full": lambda: steps("sft", None, False),
    "sft, LoRA": lambda: steps("sft", LORA, False),
    "dpo, LoRA, separate rows": lambda: steps("dpo", LORA, False),
    "dpo, LoRA, shared prefix": lambda: steps("dpo", LORA, True),
    "steerlm, LoRA, shared prefix": lambda: steps("steerlm", LORA, True),
    "attribute DPO, flip lines": attribute_dpo_steps,
    "attribute model, last token": lambda: rating_steps("last", "mse"),
    "attribute model, mean, pairs": lambda: rating_steps("mean", "scaled_bradley_terry"),
    "answers": answers,
}


def main(results: str) -> None:
    os.environ.setdefault("MASTER_PORT", "0")
    runtime.initialize(ParallelConfig(), 0)
    found = {name: case() for name, case in CASES.items()}
    Path(results).write_text(json.dumps({"device": str(runtime.device().type), **found}))
    runtime.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
