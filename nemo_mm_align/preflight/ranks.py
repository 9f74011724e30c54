"""Which process of how many this is, as the launcher says, without torch."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from nemo_mm_align.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run.

    Attributes:
        rank: number among all, from 0.
        world_size: how many there are.
        local_rank: number among those of this node.
        local_world_size: how many run on this node.
        address: (host, port) where rank 0 listens.
        agent_store: torchrun already runs a store at `address`; rank 0 must not start another.
        restart: which start of the job this is, so that nothing is mixed up with the one before.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    address: tuple[str, int] = ("127.0.0.1", 0)
    agent_store: bool = False
    restart: str = "0"

    @property
    def first_of_node(self) -> bool:
        """Whether this rank speaks for its node."""
        return self.local_rank == 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise UserError(
                f"rank {self.rank} of {self.world_size}: check RANK and WORLD_SIZE, or start with torchrun."
            )
        if self.world_size > 1 and not self.address[1]:
            raise UserError(
                f"{self.world_size} ranks, but no MASTER_PORT: start with torchrun, or export MASTER_ADDR and "
                "MASTER_PORT before srun."
            )


def ranks_from_environment(environment: Mapping[str, str] | None = None) -> Ranks:
    """Read torchrun's variables or those of a Slurm task; a single process has neither.

    The batch shell of a Slurm job has SLURM_NTASKS as well, but is no task: without a step it counts as one process.
    """
    values = os.environ if environment is None else environment
    step = values if values.get("SLURM_STEP_ID") else {}

    def number(*names: str, default: int) -> int:
        text = next(
            (found for name in names if (found := (values if "SLURM" not in name else step).get(name))), default
        )
        try:
            return int(text)
        except ValueError:
            raise UserError(f"{names[0]}={text!r} is not a number; start with torchrun or srun.") from None

    world = number("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", default=1)
    if world == 1:
        return Ranks()
    rank, local_rank = number("RANK", "SLURM_PROCID", default=0), number("LOCAL_RANK", "SLURM_LOCALID", default=0)
    return Ranks(
        rank=rank,
        world_size=world,
        local_rank=local_rank,
        local_world_size=number("LOCAL_WORLD_SIZE", default=_tasks_of_this_node(step, world)),
        address=(values.get("MASTER_ADDR", "127.0.0.1"), number("MASTER_PORT", default=0)),
        agent_store=values.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        restart=f"{values.get('SLURM_RESTART_COUNT', '0')}.{values.get('TORCHELASTIC_RESTART_COUNT', '0')}",
    )


def _tasks_of_this_node(step: Mapping[str, str], world: int) -> int:
    """Tasks on this node, from ``SLURM_STEP_TASKS_PER_NODE`` such as ``8(x2),4``."""
    counts: list[int] = []
    for part in filter(
        None, (step.get("SLURM_STEP_TASKS_PER_NODE") or step.get("SLURM_TASKS_PER_NODE", "")).split(",")
    ):
        count, _, repeat = part.rstrip(")").partition("(x")
        counts += [int(count)] * int(repeat or 1)
    node = int(step.get("SLURM_NODEID", "0"))
    return counts[node] if node < len(counts) else world


def node_name() -> str:
    """Name of this node: Slurm's, else the machine's."""
    return os.environ.get("SLURMD_NODENAME") or os.environ.get("NODE_NAME") or socket.gethostname()
