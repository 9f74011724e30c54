"""Tells the watchdog where the run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.watchdog import Watchdog, connect


class EndHangs(Callback):
    """Ends the run when no step has ended for `timeout_s` seconds; stands last in the trainer's list.

    Args:
        timeout_s: must cover the slowest step, checkpoints included.
        folder: for the stacks of the ranks.
    """

    def __init__(self, timeout_s: float, folder: Path) -> None:
        self.timeout_s, self.folder = timeout_s, folder
        self._watchdog: Watchdog | None = None
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start watching."""
        self._watchdog = Watchdog(self.timeout_s, self.folder, runtime.rank(), runtime.world_size(), connect())
        self._watchdog.start()
        self._watchdog.moved(trainer.global_step, in_step=False)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *unused: Any) -> None:
        """Data is there, the step begins."""
        self._step = trainer.global_step
        if self._watchdog is not None:
            self._watchdog.moved(trainer.global_step, in_step=True)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *unused: Any) -> None:
        """The step has ended, its checkpoint included."""
        self._step = trainer.global_step
        if self._watchdog is not None:
            self._watchdog.moved(trainer.global_step, in_step=False)

    def alive(self) -> None:
        """Say that what belongs to a step and takes longer than any, a validation, goes on."""
        if self._watchdog is not None:
            self._watchdog.moved(self._step, in_step=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop watching."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop watching."""
        self._stop()

    def _stop(self) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
