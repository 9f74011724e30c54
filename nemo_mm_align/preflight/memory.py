"""Memory per rank against the GPU, and checkpoints against the free disk, by the capacity estimator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nemo_mm_align.capacity.estimate import Estimate, estimate
from nemo_mm_align.capacity.gpus import GPU, REFERENCE_GPU, find_gpu
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.units import MIB, gib
from nemo_mm_align.preflight import storage
from nemo_mm_align.preflight.finding import Finding, amber, green, red
from nemo_mm_align.preflight.hardware import Gpu
from nemo_mm_align.preflight.job import Job
from nemo_mm_align.preflight.ranks import Ranks

_TITLE = "memory per rank"


def check_memory_and_disk(job: Job, ranks: Ranks, gpus: Sequence[Gpu] | None, gpu_type: str | None) -> list[Finding]:
    """Estimate the training and compare it with the GPU and with the disk.

    Args:
        job: with a training configuration.
        ranks: who takes part; a single process looks ahead at the experiment's own number.
        gpus: of this node.
        gpu_type: what to reckon with where there is no GPU (a name that scripts/estimate.py knows).
    """
    known = _smallest(gpus) if gpus else find_gpu(gpu_type) if gpu_type else None
    try:
        found = _estimate(job, ranks, known or find_gpu(REFERENCE_GPU))
    except UserError as error:
        return [amber(_TITLE, f"cannot be estimated: {error}", "correct what is red above")]
    findings = [judge_memory(found, known)]
    if job.results is not None:
        free, keep = storage.free_space(job.results), found.job.keep_checkpoints
        findings.append(storage.check_disk(free, int(found.checkpoint_bytes), keep))
    return findings


def judge_memory(found: Estimate, gpu: GPU | None) -> Finding:
    """The fullest rank against a GPU; without one the estimate alone."""
    worst = max(found.stages, key=lambda stage: stage.peak)
    where = f" (pipeline stage {worst.stage})" if len(found.stages) > 1 else ""
    text = f"{gib(found.peak, 1)} estimated{where}"
    if gpu is None:
        return green(_TITLE, f"{text}; no GPU here to compare with (gpu={REFERENCE_GPU} names one)")
    text += f", {gpu.name} has {gib(gpu.memory, 1)}"
    remedy = (
        "scripts/estimate.py suggest=true shows layouts that fit: more tensor or pipeline ranks, model.recompute=full"
    )
    if found.peak > gpu.memory:
        return red(_TITLE, text, remedy)
    if not found.fits:
        return amber(_TITLE, f"{text}: less than {found.reserve:.0%} to spare", remedy)
    return green(_TITLE, text)


def _smallest(gpus: Sequence[Gpu]) -> GPU:
    """The GPU with the least memory in the estimator's words; its speed does not matter here."""
    gpu = min(gpus, key=lambda gpu: gpu.memory_mib)
    return replace(find_gpu(REFERENCE_GPU), name=gpu.name, memory=gpu.memory_mib * MIB, fp8=gpu.fp8)


def _estimate(job: Job, ranks: Ranks, gpu: GPU) -> Estimate:
    """Estimate with the sizes of the model that is really loaded and the ranks that are really there."""
    sizes = job.sizes().to_dict()
    values: dict[str, Any] = {**(job.training or {})}
    values["model"] = {**values["model"], **sizes}
    here = ranks.world_size // ranks.local_world_size, ranks.local_world_size
    nodes, per_node = here if ranks.world_size > 1 else job.planned_ranks or here
    return estimate(values, gpu, nodes, per_node)
