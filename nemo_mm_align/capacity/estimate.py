"""The estimate of a run: memory per stage, disk, bubble, rough time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemo_mm_align.capacity.activations import GPU_KERNELS, Kernels
from nemo_mm_align.capacity.gpus import GPU, REFERENCE_GPU, find_gpu
from nemo_mm_align.capacity.job import TrainingJob, read_job
from nemo_mm_align.capacity.memory import StageMemory, checkpoint_bytes, stage_memory
from nemo_mm_align.capacity.steptime import StepTime, step_time
from nemo_mm_align.core.errors import UserError

RESERVE = 0.10
"""Share of a GPU's memory that stays free: fragmentation, and what the estimate does not know."""


@dataclass(frozen=True)
class Estimate:
    """Bytes per rank of every pipeline stage of a run on a GPU type."""

    job: TrainingJob
    gpu: GPU
    reserve: float
    stages: list[StageMemory]

    @property
    def peak(self) -> float:
        """Bytes of the fullest rank."""
        return max(stage.peak for stage in self.stages)

    @property
    def limit(self) -> float:
        """Bytes that may be used."""
        return self.gpu.memory * (1 - self.reserve)

    @property
    def fits(self) -> bool:
        """Whether every rank stays below the limit."""
        return self.peak <= self.limit

    @property
    def checkpoint_bytes(self) -> float:
        """Bytes of one checkpoint on disk."""
        return checkpoint_bytes(self.job)

    @property
    def disk_bytes(self) -> float:
        """Bytes of the checkpoints that are kept and of the one being written."""
        return self.checkpoint_bytes * (self.job.keep_checkpoints + 1)

    @property
    def time(self) -> StepTime:
        """Rough time of a step."""
        return step_time(self.job, self.gpu)


def check_number_format(job: TrainingJob, gpu: GPU) -> None:
    """Raise `UserError` where the GPU cannot compute in the job's number format."""
    if job.fp8 and not gpu.fp8:
        raise UserError(f"precision={job.engine.precision}: {gpu.name} has no FP8 units. Set precision=bf16.")


def estimate_job(job: TrainingJob, gpu: GPU, reserve: float = RESERVE, kernels: Kernels = GPU_KERNELS) -> Estimate:
    """Estimate a checked job on a GPU type."""
    job.check()
    check_number_format(job, gpu)
    stages = job.parallel.pipeline_model_parallel_size
    return Estimate(job, gpu, reserve, [stage_memory(job, stage, kernels) for stage in range(stages)])


def estimate(
    values: Mapping[str, Any],
    gpu: str | GPU = REFERENCE_GPU,
    nodes: int | None = None,
    gpus_per_node: int | None = None,
    reserve: float = RESERVE,
    workload: Mapping[str, Any] | None = None,
) -> Estimate:
    """Estimate a composed training configuration.

    Args:
        values: conf/train.yaml composed, as plain dictionaries (``OmegaConf.to_container(config, resolve=True)``).
        gpu: name of a type in `gpus.GPUS`, or a `GPU`, for example with the memory that the driver reports.
        nodes, gpus_per_node: instead of ``trainer.num_nodes`` and ``trainer.devices``.
        reserve: share of the memory that must stay free.
        workload: answer_tokens, images_per_sample, length where they differ from the defaults.

    Raises:
        UserError: the layout is impossible, the batch does not divide, or a value is missing.
    """
    kind = gpu if isinstance(gpu, GPU) else find_gpu(gpu)
    return estimate_job(read_job(values, nodes, gpus_per_node, workload), kind, reserve)
