"""Process groups, device and seeds: the part of a run that every entry point shares.

One code path: NCCL and CUDA where there is a GPU, gloo and the CPU where there is none; under ``torchrun``, under one
Slurm task per rank, or as a single process.
"""

from __future__ import annotations

import logging
import os
import random
from datetime import timedelta

import numpy
import torch
from megatron.core import parallel_state, tensor_parallel

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.processes import this_process
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel import cpu, cuda


def world_size() -> int:
    """Ranks of this run, as the launcher says."""
    return this_process().world_size


def rank() -> int:
    """This process among all ranks."""
    return this_process().rank


def local_rank() -> int:
    """This process among the ranks of its node."""
    return this_process().local_rank


def node_rank() -> int:
    """This node among those of the run."""
    return this_process().node_rank


def local_world_size() -> int:
    """Ranks of this node."""
    return this_process().local_world_size


def device() -> torch.device:
    """The device that this rank computes on; where each task sees only its own GPU, that one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank() % torch.cuda.device_count())


def initialize(parallel: ParallelConfig, seed: int, timeout_s: float = 1800) -> None:
    """Set up process groups, the device and the seeds; idempotent for the same layout.

    Args:
        parallel: layout; world size must be a multiple of tensor x pipeline.
        seed: start of all generators; tensor-parallel ranks differ only inside megatron-core's RNG tracker.
        timeout_s: seconds that a collective may wait before the run ends with an error.

    Raises:
        UserError: the world size does not fit the layout, other groups are already up, or nobody says where rank 0 is.
    """
    cpu.install()
    cuda.prepare(device())
    if rank() > 0:  # all would say the same; their warnings and errors are their own
        logging.getLogger("nemo_mm_align").setLevel(logging.WARNING)
    parallel.data_parallel_size(world_size())
    if not torch.distributed.is_initialized():
        _initialize_process_group(timedelta(seconds=timeout_s))
    sizes = (parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size)
    if parallel_state.model_parallel_is_initialized():
        current = (
            parallel_state.get_tensor_model_parallel_world_size(),
            parallel_state.get_pipeline_model_parallel_world_size(),
        )
        if current != sizes:
            raise UserError(f"process groups of layout {current} are up, {sizes} was asked for; call shutdown() first.")
    else:
        parallel_state.initialize_model_parallel(*sizes, distributed_timeout_minutes=timeout_s / 60)
    seed_everything(seed)


def _initialize_process_group(timeout: timedelta) -> None:
    if world_size() == 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "0")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"{world_size()} ranks were started, but {' and '.join(missing)} say nothing of where rank 0 listens. Start the "
            "run with scripts/launch.py or torchrun, or export both before srun."
        )
    where = device()
    torch.distributed.init_process_group(
        "nccl" if where.type == "cuda" else "gloo",
        rank=rank(),
        world_size=world_size(),
        timeout=timeout,
        device_id=where if where.type == "cuda" else None,  # NCCL connects at once, and guesses no device
    )


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy, torch and megatron-core's tensor-parallel generators from one number."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    seed_generators(seed)


def seed_generators(seed: int) -> None:
    """Set torch's generators and the tensor-parallel RNG tracker to states that depend on `seed` alone."""
    tensor_parallel.model_parallel_cuda_manual_seed(seed, force_reset_rng=True)
    torch.manual_seed(seed)


def shutdown() -> None:
    """Tear the process groups down; a second call does nothing."""
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def is_first_stage() -> bool:
    """Whether this rank holds vision tower, projector and embedding."""
    return bool(parallel_state.is_pipeline_first_stage())


def is_last_stage() -> bool:
    """Whether this rank holds the output layer."""
    return bool(parallel_state.is_pipeline_last_stage())


def data_parallel_rank() -> int:
    """Which replica of the model this rank belongs to."""
    return int(parallel_state.get_data_parallel_rank())


def data_parallel_size() -> int:
    """How many replicas of the model run."""
    return int(parallel_state.get_data_parallel_world_size())


def broadcast_from_last_stage(tensor: torch.Tensor) -> torch.Tensor:
    """Give every pipeline stage the last stage's values, in place.

    Args:
        tensor: any shape, the same shape and dtype on every stage.
    """
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        source = parallel_state.get_pipeline_model_parallel_last_rank()
        torch.distributed.broadcast(tensor, source, group=parallel_state.get_pipeline_model_parallel_group())
    return tensor


def layout() -> dict[str, int]:
    """The layout as the process groups themselves report it."""
    return {
        "world_size": torch.distributed.get_world_size(),
        "tensor_model_parallel_size": int(parallel_state.get_tensor_model_parallel_world_size()),
        "pipeline_model_parallel_size": int(parallel_state.get_pipeline_model_parallel_world_size()),
        "data_parallel_size": data_parallel_size(),
    }
