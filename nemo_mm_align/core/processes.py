"""Which process of how many this is, as torchrun or Slurm says; needs no torch."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from nemo_mm_align.core.errors import UserError


@dataclass(frozen=True)
class Process:
    """This process among those of its run.

    Attributes:
        rank: number among all, from 0.
        world_size: how many there are.
        local_rank: number among those of this node.
        local_world_size: how many run on this node.
        node_rank: number of this node, from 0.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    node_rank: int = 0


def this_process(environment: Mapping[str, str] | None = None) -> Process:
    """Read torchrun's variables, else those of a Slurm task; a single process has neither.

    Both are read as a set: a container may bring RANK without WORLD_SIZE, and the batch script of a Slurm job, which is no
    task of a step, sees SLURM_NTASKS as well.

    Raises:
        UserError: a variable is not a number.
    """
    values = os.environ if environment is None else environment
    if "RANK" in values and "WORLD_SIZE" in values:
        return Process(
            rank=read_number(values, "RANK"),
            world_size=read_number(values, "WORLD_SIZE", 1),
            local_rank=read_number(values, "LOCAL_RANK"),
            local_world_size=read_number(values, "LOCAL_WORLD_SIZE", 1),
            node_rank=read_number(values, "GROUP_RANK"),
        )
    if "SLURM_STEP_ID" in values and "SLURM_PROCID" in values:
        node, tasks = read_number(values, "SLURM_NODEID"), _tasks_per_node(values.get("SLURM_STEP_TASKS_PER_NODE", "1"))
        return Process(
            rank=read_number(values, "SLURM_PROCID"),
            world_size=read_number(values, "SLURM_STEP_NUM_TASKS", 1),
            local_rank=read_number(values, "SLURM_LOCALID"),
            local_world_size=tasks[min(node, len(tasks) - 1)],
            node_rank=node,
        )
    return Process()


def node_name() -> str:
    """Name of this node: Slurm's, else what a pod was told, else the machine's."""
    return os.environ.get("SLURMD_NODENAME") or os.environ.get("NODE_NAME") or socket.gethostname()


def read_number(values: Mapping[str, str], name: str, default: int = 0) -> int:
    """Value of a variable that holds a whole number, `default` where it is not set; raise `UserError` where it holds none."""
    try:
        return int(values.get(name) or default)
    except ValueError:
        raise UserError(f"{name}={values[name]!r} is not a number; start with torchrun or srun.") from None


def _tasks_per_node(text: str) -> list[int]:
    """Read Slurm's short form: ``8(x2),4`` is 8, 8, 4."""
    counts: list[int] = []
    for count, _, nodes in (part.partition("(x") for part in text.split(",")):
        counts += [int(count)] * int(nodes.rstrip(")") or 1)
    return counts
