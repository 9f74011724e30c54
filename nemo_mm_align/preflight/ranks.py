"""Which process of how many this is, as the launcher says, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.processes import Process, read_number, this_process


@dataclass(frozen=True)
class Ranks(Process):
    """This process among those of its run, and how it finds the others.

    Attributes:
        address: (host, port) where rank 0 listens.
        agent_store: torchrun already runs a store at `address`; rank 0 must not start another.
        restart: which start of the job this is, so that nothing is mixed up with the one before.
    """

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
    """Read where this process stands as training does, and where rank 0 listens.

    Raises:
        UserError: the launcher's variables are no numbers, contradict each other, or lack the address.
    """
    values = os.environ if environment is None else environment
    process = this_process(values)
    if process.world_size > 1:
        return Ranks(
            **asdict(process),
            address=(values.get("MASTER_ADDR", "127.0.0.1"), read_number(values, "MASTER_PORT")),
            agent_store=values.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            restart=f"{values.get('SLURM_RESTART_COUNT', '0')}.{values.get('TORCHELASTIC_RESTART_COUNT', '0')}",
        )
    alone = "RANK" not in values and "SLURM_STEP_ID" not in values
    if alone and values.get("WORLD_SIZE", "1") != "1":
        raise UserError(f"WORLD_SIZE={values['WORLD_SIZE']}, but no RANK: start with torchrun or srun.")
    return Ranks()
