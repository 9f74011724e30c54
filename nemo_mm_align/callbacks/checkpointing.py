"""When to save: every n steps, at the end, and when the run is asked to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nemo_mm_align.callbacks.stopping import StopOnSignal
from nemo_mm_align.parallel.checkpoint import keep_newest, step_folder


class SaveCheckpoints(Callback):
    """Saves through the strategy and keeps the newest few.

    Args:
        folder: the run's checkpoints folder.
        every_n_steps: distance between checkpoints; 0 saves only at the end or on request.
        keep: complete checkpoints to keep.
        total_steps: length of the run.
        stop: the stop flag; must stand before this callback in the trainer's list.
    """

    def __init__(self, folder: Path, every_n_steps: int, keep: int, total_steps: int, stop: StopOnSignal) -> None:
        self.folder, self.every, self.keep, self.total, self.stop = folder, every_n_steps, keep, total_steps, stop

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *unused: Any) -> None:
        """Save if this step is one of those."""
        step = trainer.global_step
        due = self.every and step % self.every == 0
        if due or step == self.total or self.stop.requested:
            trainer.save_checkpoint(step_folder(self.folder, step))
            keep_newest(self.folder, self.keep)
