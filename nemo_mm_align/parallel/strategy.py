"""The thin layer between Lightning's Trainer and megatron-core: process groups up, wrapping left alone, checkpoints ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy

from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel import runtime


class LauncherEnvironment(ClusterEnvironment):
    """Ranks as the launcher gave them: torchrun, one Slurm task per rank, or a single process.

    Lightning's own Slurm environment takes SIGUSR1 and requeues by itself, which is the launcher's business here.
    """

    @property
    def creates_processes_externally(self) -> bool:
        """Lightning starts no process of its own."""
        return True

    @property
    def main_address(self) -> str:
        """Where rank 0 listens."""
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        """Port of rank 0."""
        return int(os.environ.get("MASTER_PORT", "0"))

    @staticmethod
    def detect() -> bool:
        """Chosen explicitly, never by guess."""
        return False

    def world_size(self) -> int:
        """Ranks of this run."""
        return runtime.world_size()

    def set_world_size(self, size: int) -> None:
        """The launcher has the say."""

    def global_rank(self) -> int:
        """This process among all ranks."""
        return runtime.rank()

    def set_global_rank(self, rank: int) -> None:
        """The launcher has the say."""

    def local_rank(self) -> int:
        """This process on its node."""
        return runtime.local_rank()

    def node_rank(self) -> int:
        """This node."""
        return runtime.node_rank()


class MegatronCoreStrategy(DDPStrategy):
    """Lets Lightning run loops, loggers and callbacks while megatron-core owns model, gradients and optimizer.

    Args:
        parallel: layout of the process groups.
        seed: of all generators.
        save: called with (folder, Lightning's own state) on every rank.
        load: called with (folder), restores model and optimizer and returns Lightning's state.
    """

    def __init__(
        self,
        parallel: ParallelConfig,
        seed: int,
        save: Callable[[Path, dict[str, Any]], None],
        load: Callable[[Path], dict[str, Any]],
    ) -> None:
        super().__init__(cluster_environment=LauncherEnvironment())
        self._parallel, self._seed, self._save, self._load = parallel, seed, save, load

    def setup_distributed(self) -> None:
        """Bring up megatron-core's groups instead of one plain group."""
        self.set_world_ranks()
        runtime.initialize(self._parallel, self._seed)

    def configure_ddp(self) -> None:
        """Gradients are megatron-core's."""

    def model_to_device(self) -> None:
        """The model was built where it belongs."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Weights travel in the sharded state, not here."""
        return {}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a sharded checkpoint; `checkpoint` is Lightning's own state (loops, callbacks)."""
        self._save(Path(filepath), checkpoint)

    def load_checkpoint(self, checkpoint_path: Any) -> dict[str, Any]:
        """Restore model and optimizer; return Lightning's own state."""
        return self._load(Path(checkpoint_path))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Done by `load_checkpoint`."""

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Done by `load_checkpoint`."""

    def remove_checkpoint(self, filepath: Any) -> None:
        """Retention is `parallel.checkpoint.keep_newest`'s business."""

    @property
    def root_device(self) -> torch.device:
        """This rank's device."""
        return runtime.device()

    def teardown(self) -> None:
        """Leave the process groups to whoever brought them up."""
