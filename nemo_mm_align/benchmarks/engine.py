"""This engine's side of the measurements: a policy, its reference, and steps on prepared batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.benchmarks.agreed import BETA, OPTIM, SEED
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.model.config import EngineConfig, LoRAConfig, ParallelConfig
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.objectives.objective import Objective
from nemo_mm_align.parallel.optim_config import OptimConfig
from nemo_mm_align.parallel.source import build_from, open_source
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.training import reference
from nemo_mm_align.training.schedule import run_schedule
from nemo_mm_align.training.step import TrainingEngine

_STEPS = 10_000


def objective_of(method: str, changes: Mapping[str, Any] | None = None) -> Objective:
    """The objective of a recipe with its default values, the peers' beta where it has a reference, and `changes`."""
    spec = find_recipe(method)
    peers = {"beta": BETA} if spec.objective.needs_reference else {}
    return spec.configured(**{**peers, **(changes or {})})


FP32 = EngineConfig("fp32", seed=SEED)


def load_engine(
    folder: Path, parallel: ParallelConfig | None = None, config: EngineConfig = FP32, lora: LoRAConfig | None = None
) -> Llava:
    """Build this rank's part of a folder's model, with fresh adapters where they are asked for; process groups must be up."""
    return build_from(open_source(folder), parallel or ParallelConfig(), config, lora)


class EngineTraining:
    """Fine-tuning of language model and projector, as in the peers, or of adapters and projector.

    Args:
        policy: model folder.
        method: name of a recipe; see `benchmarks.recipes`.
        reference_folder: DPO's reference where its log-probs are to be computed here.
        changes: settings of the recipe that are not to be its defaults.
        optim: learning rate, betas and clipping.
        config: numbers and kernels.
        lora: adapters to be trained.
    """

    def __init__(
        self,
        policy: Path,
        method: str,
        reference_folder: Path | None = None,
        parallel: ParallelConfig | None = None,
        changes: Mapping[str, Any] | None = None,
        optim: OptimConfig = OPTIM,
        config: EngineConfig = FP32,
        lora: LoRAConfig | None = None,
    ) -> None:
        model = load_engine(policy, parallel, config, lora)
        self.engine = TrainingEngine(model, objective_of(method, changes), optim, _STEPS, SEED)
        self.reference: Llava | None = None
        if reference_folder is not None:
            self.reference = load_engine(reference_folder, parallel, config).eval().requires_grad_(False)
        self._step = 0

    def with_reference(self, batch: Batch) -> Batch:
        """The batch with its reference log-probs, computed now."""
        assert self.reference is not None
        return replace(batch, reference_log_probs_Q=reference.compute(self.reference, [batch]))

    def step(self, batches: Sequence[Batch], recompute: bool = False) -> float:
        """One optimizer step; return its loss. With `recompute` the reference runs on every batch first."""
        if recompute:
            batches = [self.with_reference(batch) for batch in batches]
        self._step += 1
        return self.engine.step(batches, self._step - 1).metrics["loss"]

    def loss(self, *batches: Batch) -> float:
        """Loss of micro batches without a step."""
        with torch.no_grad():
            reports = run_schedule(
                self.engine.ddp, list(batches), self.engine.reads, self.engine._loss, forward_only=True
            )
        totals, weights = zip(*(report["loss"] for report in reports), strict=True)
        return float(sum(totals) / sum(weights))
