"""One optimizer step: batches -> pipeline schedule -> loss -> gradients -> update. Knows neither Lightning nor NeMo."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from torch import Tensor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.rows import PADDING_SEGMENT
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.objectives.common_metrics import common_metrics
from nemo_mm_align.objectives.objective import Objective, Reading
from nemo_mm_align.parallel import memory, runtime
from nemo_mm_align.parallel.gradients import finalize_gradients, squared_gradient_norm
from nemo_mm_align.parallel.optim_config import OptimConfig
from nemo_mm_align.parallel.optimizer import Schedule, build_optimizer, wrap_for_training
from nemo_mm_align.training.point import measure_point, with_point
from nemo_mm_align.training.schedule import run_schedule

logger = logging.getLogger(__name__)

_SAMPLES_SHOWN = 16

PACKING_EFFICIENCY = "packing_efficiency"
"""Share of the computed positions that are no padding (Krell et al., arXiv 2107.02027), over all micro batches of a step."""


class TrainingDiverged(UserError):
    """Loss or gradient is not a finite number; raised on all ranks before any weight has changed.

    Args:
        step: steps completed before.
        what: the loss or the gradient norm, with its value, or that there is none.
        micro_batches: of all replicas: ``samples`` (ids) and their ``loss`` (mean, in the objective's unit).
    """

    def __init__(self, step: int, what: str, micro_batches: list[dict[str, Any]]) -> None:
        self.report = {"step": step + 1, "what": what, "micro_batches": micro_batches}
        suspects = [part for part in micro_batches if not math.isfinite(part["loss"])] or micro_batches
        ids = [sample for part in suspects for sample in part["samples"]]
        shown = ", ".join(ids[:_SAMPLES_SHOWN]) + (
            f" and {len(ids) - _SAMPLES_SHOWN} more" if ids[_SAMPLES_SHOWN:] else ""
        )
        super().__init__(
            f"step {step + 1}: {what}; nothing was changed by this step. Samples: {shown}. Look at these samples, lower "
            "model.optim.lr, or train in fp32 to see whether it is the number format."
        )


@dataclass(frozen=True)
class StepResult:
    """Metrics of one step, the same on every rank.

    `peak_bytes` is the most memory that the fullest rank has held so far; its last update is not in it.
    """

    metrics: dict[str, float]
    count: float
    peak_bytes: int


class TrainingEngine:
    """A model stage with gradients, optimizer and schedule.

    Args:
        model: built and loaded; its trainable parameters are what the optimizer sees.
        objective: what is read of the model, and its loss.
        optim: optimizer settings.
        total_steps: length of the learning-rate schedule.
        seed: of everything random within a step (LoRA dropout).
    """

    def __init__(self, model: Llava, objective: Objective, optim: OptimConfig, total_steps: int, seed: int) -> None:
        self.model, self.objective, self.seed = model, objective, seed
        self.reads = replace(objective.reads, distribution=objective.reads.token_losses)
        self.ddp: DistributedDataParallel = wrap_for_training(model, optim)
        self.optimizer = build_optimizer(self.ddp, optim)
        self.schedule = Schedule(self.optimizer, optim, total_steps)
        model.config.finalize_model_grads_func = finalize_gradients
        model.config.grad_scale_func = self.optimizer.scale_loss
        self.ddp.train()

    def step(self, batches: Sequence[Batch], step: int, mismatched: Sequence[Batch] = ()) -> StepResult:
        """Train on this rank's micro batches of a step.

        Args:
            batches: the same on all ranks of a replica; of equal shape where there is a pipeline.
            step: number from 0; it alone decides learning rate and random numbers.
            mismatched: micro batches that the objective's point is measured on, where it has one.

        Raises:
            TrainingDiverged: loss or gradient is NaN or infinite; no weight has been changed.
        """
        if mismatched:
            point = measure_point(self.model, self.objective, mismatched)
            batches = [with_point(self.objective, batch, point) for batch in batches]
        self._seed(step)
        learning_rate = self.schedule.set_step(step)
        self.ddp.zero_grad_buffer()
        self.optimizer.zero_grad()
        reports = run_schedule(self.ddp, batches, self.reads, self._loss, forward_only=False)
        names, sums_M2 = add_reports(reports)
        self.optimizer.prepare_grads()
        square = squared_gradient_norm(self.optimizer)
        # The one moment of a step at which the host waits for the device.
        device_values = [sums_M2.flatten(), square.double().view(1), memory.peak_of_all_ranks()]
        *sums, squared_norm, peak_bytes = torch.cat(device_values).tolist()
        metrics = {
            name: total / weight if weight else math.nan
            for name, total, weight in zip(names, sums[::2], sums[1::2], strict=True)
        }
        metrics |= self.objective.derived(metrics)
        if not sums[2 * names.index("loss") + 1]:
            self._give_up("nothing in it counts: none of its samples has a label or a target", batches, reports, step)
        self._check_finite("the loss", metrics["loss"], batches, reports, step)
        gradient_norm = squared_norm**0.5
        self._check_finite("the gradient norm", gradient_norm, batches, reports, step)
        self._clip(gradient_norm)
        self.optimizer.step_with_ready_grads()
        metrics |= {"learning_rate": learning_rate, "gradient_norm": gradient_norm}
        return StepResult(metrics, sums[2 * names.index("loss") + 1], int(peak_bytes))

    def _clip(self, gradient_norm: float) -> None:
        """As the optimizer's own `step` does, which leaves no room to look at the norm first."""
        limit = self.optimizer.config.clip_grad
        for optimizer in getattr(self.optimizer, "chained_optimizers", [self.optimizer]):
            parameters = optimizer.get_parameters()
            if limit > 0 and parameters:
                clip_grad_by_total_norm_fp32(parameters, limit, gradient_norm)

    def _loss(self, reading: Reading, batch: Batch) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
        output = self.objective.loss(reading, batch)
        told = common_metrics(self.reads, reading, batch) | output.metrics | {PACKING_EFFICIENCY: _filled(batch)}
        return output.loss_sum, output.count, told

    def _seed(self, step: int) -> None:
        replica = parallel_state.get_data_parallel_rank() * 1009 + parallel_state.get_pipeline_model_parallel_rank()
        runtime.seed_generators((self.seed * 1_000_003 + step * 7919 + replica) % 2**31)

    def _check_finite(
        self, name: str, value: float, batches: Sequence[Batch], reports: Sequence[Any], step: int
    ) -> None:
        """Raise on all ranks, which see the same value."""
        if not math.isfinite(value):
            self._give_up(f"{name} is {value}", batches, reports, step)

    def _give_up(self, what: str, batches: Sequence[Batch], reports: Sequence[Any], step: int) -> NoReturn:
        """Raise on all ranks; each replica's last stage knows its micro batches' losses, 0 where nothing counts."""
        own = []
        for batch, report in zip(batches, reports, strict=False):
            total, weight = map(float, report["loss"])
            own.append({"samples": list(batch.sample_ids), "loss": total / weight if weight else total})
        writes = parallel_state.get_tensor_model_parallel_rank() == 0
        parts: list[Any] = [None] * runtime.world_size()
        torch.distributed.all_gather_object(parts, own if writes else [])
        raise TrainingDiverged(step, what, [item for part in parts for item in part])


def _filled(batch: Batch) -> tuple[Tensor, Tensor]:
    """Positions that are no padding, and all of them."""
    filled = (batch.segment_ids_BS > PADDING_SEGMENT).sum().float()
    return filled, filled.new_full((), batch.segment_ids_BS.numel())


def add_reports(reports: Sequence[dict[str, tuple[Tensor, Tensor]]]) -> tuple[list[str], Tensor]:
    """Add reports over micro batches and replicas and share the sums with every stage.

    Args:
        reports: on the last stage, per micro batch: name -> (sum, weight).

    Returns:
        M names in order, and their sums and weights, float64 [M, 2] on the device.
    """
    names = sorted(reports[0]) if reports else []
    names = _share_names(names)
    sums_M2 = torch.zeros(len(names), 2, dtype=torch.float64, device=runtime.device())
    for report in reports:
        if sorted(report) != names:
            raise ValueError(f"an objective's metrics differ between micro batches: {sorted(report)}, {names}")
        sums_M2 += torch.stack([part for name in names for part in report[name]]).view(-1, 2)
    runtime.broadcast_from_last_stage(sums_M2)
    torch.distributed.all_reduce(sums_M2, group=parallel_state.get_data_parallel_group())
    return names, sums_M2


def _share_names(names: list[str]) -> list[str]:
    if parallel_state.get_pipeline_model_parallel_world_size() == 1:
        return names
    box = [names]
    source = parallel_state.get_pipeline_model_parallel_last_rank()
    torch.distributed.broadcast_object_list(box, source, group=parallel_state.get_pipeline_model_parallel_group())
    return box[0]
