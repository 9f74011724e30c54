"""One optimizer step: batches -> pipeline schedule -> loss -> gradients -> update. Knows neither Lightning nor NeMo."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.model.attention import segment_mask
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.optimizer import OptimConfig, Schedule, build_optimizer, wrap_for_training
from nemo_mm_align.recipes.losses import LossOutput
from nemo_mm_align.recipes.methods import Method

logger = logging.getLogger(__name__)


class TrainingDiverged(RuntimeError):
    """The loss is not a finite number; the message names step and samples."""


@dataclass(frozen=True)
class StepResult:
    """Metrics of one step, the same on every rank."""

    metrics: dict[str, float]
    count: float


def forward_batch(model: Any, batch: Batch) -> Tensor:
    """Run a batch through a stage; on the last one return per-token losses [B, S] in nats."""
    output: Tensor = model(
        batch.input_ids_BS,
        batch.position_ids_BS,
        segment_mask(batch.segment_ids_BS),
        images_NCHW=batch.images_NCHW,
        labels_BS=batch.labels_BS,
        image_index_K=batch.image_index_K,
    )
    return output


def run_schedule(model: Any, batches: Sequence[Batch], loss_function: Any, forward_only: bool) -> list[Any]:
    """Send micro batches through megatron-core's pipeline schedule.

    Args:
        loss_function: (per-token losses, batch) -> what megatron-core's schedule expects on the last stage.

    Returns:
        On the last stage one report per micro batch, elsewhere an empty list.
    """

    def forward_step(iterator: Iterator[Batch], chunk: Any) -> tuple[Tensor, Any]:
        batch = next(iterator).to(runtime.device())
        return forward_batch(chunk, batch), functools.partial(loss_function, batch=batch)

    rows, length = batches[0].input_ids_BS.shape
    reports: list[Any] = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iter(batches),
        model=[model],
        num_microbatches=len(batches),
        seq_length=length,
        micro_batch_size=rows,
        forward_only=forward_only,
    )
    return reports


class TrainingEngine:
    """A model stage with gradients, optimizer and schedule.

    Args:
        model: built and loaded; its trainable parameters are what the optimizer sees.
        method: what loss to take.
        optim: optimizer settings.
        total_steps: length of the learning-rate schedule.
        seed: of everything random within a step (LoRA dropout).
    """

    def __init__(self, model: Llava, method: Method, optim: OptimConfig, total_steps: int, seed: int) -> None:
        self.model, self.method, self.seed = model, method, seed
        self.ddp: DistributedDataParallel = wrap_for_training(model, optim)
        self.optimizer = build_optimizer(self.ddp, optim)
        self.schedule = Schedule(self.optimizer, optim, total_steps)
        model.config.finalize_model_grads_func = finalize_model_grads
        model.config.grad_scale_func = self.optimizer.scale_loss
        self.ddp.train()

    def step(self, batches: Sequence[Batch], step: int) -> StepResult:
        """Train on this rank's micro batches of a step.

        Args:
            batches: of equal shape, the same on all ranks of a replica.
            step: number from 0; it alone decides learning rate and random numbers.

        Raises:
            TrainingDiverged: the loss is NaN or infinite; no weight has been changed.
        """
        self._seed(step)
        learning_rate = self.schedule.set_step(step)
        self.ddp.zero_grad_buffer()
        self.optimizer.zero_grad()
        reports = run_schedule(self.ddp, batches, self._loss, forward_only=False)
        metrics, count = reduce_metrics(reports)
        self._check_finite(metrics["loss"], batches, step)
        succeeded, gradient_norm, _ = self.optimizer.step()
        if not succeeded:
            logger.warning("step %d: gradients overflowed, weights left as they were", step)
        metrics |= {"learning_rate": learning_rate, "gradient_norm": float(gradient_norm or 0.0)}
        return StepResult(metrics, count)

    def _loss(self, token_losses_BS: Tensor, batch: Batch) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
        output: LossOutput = self.method.loss(token_losses_BS, batch)
        return output.loss_sum, output.count, output.metrics

    def _seed(self, step: int) -> None:
        replica = parallel_state.get_data_parallel_rank() * 1009 + parallel_state.get_pipeline_model_parallel_rank()
        runtime.seed_generators((self.seed * 1_000_003 + step * 7919 + replica) % 2**31)

    def _check_finite(self, loss: float, batches: Sequence[Batch], step: int) -> None:
        if loss == loss and abs(loss) != float("inf"):
            return
        samples = [sample for batch in batches for sample in batch.sample_ids]
        raise TrainingDiverged(
            f"step {step}: the loss is {loss}. Samples of this rank: {', '.join(samples)}. Look at these samples, lower "
            "model.optim.lr, or train in fp32 to see whether it is the number format."
        )


def reduce_metrics(reports: Sequence[dict[str, tuple[Tensor, Tensor]]]) -> tuple[dict[str, float], float]:
    """Add reports over micro batches and replicas and share the means with every stage.

    Args:
        reports: on the last stage, per micro batch: name -> (sum, weight).

    Returns:
        Name -> mean, and the weight of ``loss``.
    """
    names = sorted(reports[0]) if reports else []
    names = _share_names(names)
    sums_M2 = torch.zeros(len(names), 2, dtype=torch.float64)
    for report in reports:
        sums_M2 += torch.tensor([[float(part) for part in report[name]] for name in names], dtype=torch.float64)
    sums_M2 = sums_M2.to(runtime.device())
    runtime.broadcast_from_last_stage(sums_M2)
    torch.distributed.all_reduce(sums_M2, group=parallel_state.get_data_parallel_group())
    means = {name: float(total / weight) for name, (total, weight) in zip(names, sums_M2, strict=True)}
    return means, float(sums_M2[names.index("loss"), 1])


def _share_names(names: list[str]) -> list[str]:
    if parallel_state.get_pipeline_model_parallel_world_size() == 1:
        return names
    box = [names]
    source = parallel_state.get_pipeline_model_parallel_last_rank()
    torch.distributed.broadcast_object_list(box, source, group=parallel_state.get_pipeline_model_parallel_group())
    return box[0]
