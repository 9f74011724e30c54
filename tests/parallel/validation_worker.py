"""What a tiny model makes of held-out samples, and of a step on packed ones, at one layout after the other.

torchrun --nproc-per-node 2 tests/parallel/validation_worker.py MODEL RESULTS.json
"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.datasets.sampler import GlobalBatchSampler
from nemo_mm_align.model.config import EngineConfig, LoRAConfig, ParallelConfig
from nemo_mm_align.model.head_config import HeadConfig
from nemo_mm_align.model.huggingface import llava_config_from_hf, load_huggingface
from nemo_mm_align.model.llava import Llava, build_llava, set_trainable
from nemo_mm_align.objectives.objective import Objective
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.optim_config import OptimConfig
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.training.data import BatchShape, StepDataset
from nemo_mm_align.training.packing import Packing
from nemo_mm_align.training.step import PACKING_EFFICIENCY, TrainingEngine
from nemo_mm_align.training.validation import Validation, metric_names
from tests.distributed import REPOSITORY
from tests.parallel.each_layout import in_each_layout
from tests.parallel.health_worker import DrawnImages, labelled, mismatched
from tests.tiny_llava import candidates, image_pair, samples

LAYOUTS = {"tp2": ParallelConfig(2, 1, sequence_parallel=True), "pp2": ParallelConfig(1, 2), "dp2": ParallelConfig()}
HIDDEN = 64
SCHEMA = AttributeSchema.model_validate(
    yaml.safe_load((REPOSITORY / "conf/attribute_schema/helpsteer.yaml").read_text())
)
OUTPUTS = len(SCHEMA.names)


PACKED = ("sft", "dpo", "mdpo", "kto", "attribute_model")
BUDGET = 44
"""Positions: two or three samples share a row."""

MIXTURE = {
    "loss_type": ["rpo_bwd_kl", "ipo", "sft"],
    "loss_weights": [1.0, 0.5, 0.25],
    "margin_weights": {"verbosity": -1.0},
}


def objective(name: str) -> Objective:
    method, _, apart = name.partition(" ")
    changes = {"shared_prefix": False} if apart else MIXTURE if name == "rpo" else {}
    return find_recipe(method).configured(**changes).with_schema(SCHEMA)


def held_out(name: str, count: int = 5) -> list[Sample]:
    """Samples of unequal length; five of them in micro batches of two leave one alone."""
    if name == "sft":
        return [sample for number in range(2) for sample in samples(number)][:count]
    if name in ("dpo", "simpo"):
        return [replace(candidates(n, 2), reference_log_probs=[-9.0 - n, -25.0 + n]) for n in range(count)]
    if name == "kto":
        return labelled()[:count]
    if name.startswith("mdpo"):
        pairs = [image_pair(n) for n in range(count)]
        return [
            replace(p, reference_log_probs=[-9.0 - n, -25.0 + n, -11.0][: len(p.roles)]) for n, p in enumerate(pairs)
        ]
    if name == "rpo":
        unknown = [float("nan")] * OUTPUTS
        return [
            replace(pair, targets=[[*unknown, n], [*unknown, 1.0]]) for n, pair in enumerate(held_out("dpo", count))
        ]
    rated = [candidates(n, 1 + n % 3) for n in range(count)]
    nan = float("nan")
    if name == "steerlm2":  # every second prior is the reference's
        return [
            replace(
                sample,
                roles=("candidate",) * (size := len(sample.sequences)),
                targets=[[-1.0 - k, nan if n % 2 else -20.0 + k] for k in range(size)],
                reference_log_probs=[-9.0 - n + k for k in range(size)],
                prior_log_probs=[-11.0 + n * k for k in range(size)] if n % 2 else None,
            )
            for n, sample in enumerate(rated)
        ]
    targets = [
        [[float(n), nan if k else 2.0, 1.0 + k, nan, 3.0] for k in range(len(sample.sequences))]
        for n, sample in enumerate(rated)
    ]
    return [
        replace(sample, roles=("candidate",) * len(sample.sequences), targets=values)
        for sample, values in zip(rated, targets, strict=True)
    ]


def build(folder: Path, name: str, parallel: ParallelConfig, dropout: float = 0.0) -> Llava:
    torch.manual_seed(5)
    head = HeadConfig(tuple(SCHEMA.names), "last") if name == "attribute_model" else None
    lora = LoRAConfig(rank=4, alpha=8, dropout=dropout)
    model = build_llava(llava_config_from_hf(folder), parallel, EngineConfig(), lora=lora, initialize=False, head=head)
    load_huggingface(model, folder)
    if model.head is not None:
        with torch.no_grad():
            model.head.score.weight.copy_(torch.linspace(-0.2, 0.3, OUTPUTS * HIDDEN).view(OUTPUTS, HIDDEN))
    return model.train()


def validation(name: str, chosen: list[Sample], size: int) -> Validation:
    recipe, collator = objective(name), DrawnImages()
    pipeline = runtime.layout()["pipeline_model_parallel_size"] > 1
    shared = recipe.rows_shared
    collator.shape = BatchShape(2, shared, last_token=recipe.reads.hidden is not None, equal_rows=pipeline)
    collator.roles = find_recipe(recipe.name).samples.roles
    names = metric_names(recipe, copy.copy(collator), chosen[0], HIDDEN, OUTPUTS if name == "attribute_model" else 0)
    return Validation(
        chosen, collator, recipe, size, names, False, mismatched()[: len(chosen)] if name == "kto" else None
    )


def trained(folder: Path, name: str, parallel: ParallelConfig, budget: int | None) -> dict[str, float]:
    """Return the metrics of a step on five samples, in rows of so many positions or one sample at a time."""
    method, recipe, collator = name.partition(" ")[0], objective(name), DrawnImages()
    model, chosen = build(folder, method, parallel), held_out(method)
    reads, replicas = recipe.reads, runtime.data_parallel_size()
    set_trainable(model, False, projector=True, vision=False, adapters=True, output_layer=reads.token_losses)
    pipeline = runtime.layout()["pipeline_model_parallel_size"] > 1
    collator.shape = BatchShape(2, recipe.rows_shared, last_token=reads.hidden is not None, equal_rows=pipeline)
    collator.roles = find_recipe(recipe.name).samples.roles
    sampler = GlobalBatchSampler(len(chosen), len(chosen), 1 if budget is None else None, replicas, seed=3)
    packing = None if budget is None else Packing(budget, replicas, lambda work: work.tokens + work.attended, pipeline)
    others = mismatched() if method == "kto" else None
    step = StepDataset(chosen, sampler, collator, runtime.data_parallel_rank(), reads, others, packing)[0]
    return TrainingEngine(model, recipe, OptimConfig(), 9, seed=0).step(step.batches, 0, step.mismatched).metrics


def measure(folder: Path, parallel: ParallelConfig) -> dict[str, dict[str, float]]:
    """Return the metrics of five samples, and of one, which leaves a second replica without any; and of steps in full rows."""
    found = {}
    for name in PACKED:
        found[f"{name} packed"] = trained(folder, name, parallel, BUDGET)
        found[f"{name} packed"].pop(PACKING_EFFICIENCY)  # a pipeline pads
    for name in ("sft", "dpo", "mdpo", "mdpo apart", "simpo", "rpo", "kto", "attribute_model"):
        model = build(folder, name, parallel)
        for count in (5, 1):
            found[f"{name} {count}"] = validation(name, held_out(name, count), 2).measure(model) or {}
    return found


if __name__ == "__main__":
    in_each_layout(LAYOUTS, measure, Path(sys.argv[1]), Path(sys.argv[2]))
