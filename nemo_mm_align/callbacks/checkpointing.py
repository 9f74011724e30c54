"""When to save: every n steps, at the end, when validation found the best so far, and when the run is asked to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nemo_mm_align.callbacks.stopping import StopOnRequest
from nemo_mm_align.callbacks.validation import BestCheckpoint
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.background import BackgroundWriter
from nemo_mm_align.parallel.best_checkpoint import read_best
from nemo_mm_align.parallel.checkpoint import keep_newest, step_folder


class SaveCheckpoints(Callback):
    """Saves through the strategy and keeps the newest few, and the best.

    Args:
        folder: the run's checkpoints folder.
        every_n_steps: distance between checkpoints; 0 saves only at the end or on request.
        keep: complete checkpoints to keep, beside the best one.
        total_steps: length of the run.
        stop: the stop flag; must stand before this callback in the trainer's list.
        writer: where the strategy's saves go on in the background; None where they are complete at once.
        best: which checkpoint validation is for; None where nothing is validated.
    """

    def __init__(
        self,
        folder: Path,
        every_n_steps: int,
        keep: int,
        total_steps: int,
        stop: StopOnRequest,
        writer: BackgroundWriter | None = None,
        best: BestCheckpoint | None = None,
    ) -> None:
        self.folder, self.every, self.keep, self.total, self.stop = folder, every_n_steps, keep, total_steps, stop
        self.writer, self.best = writer, best

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *unused: Any) -> None:
        """Save if this step is one of those; before the run ends, wait until all is written."""
        step = trainer.global_step
        ends = step == self.total or self.stop.requested
        completed = self.writer is not None and self.writer.poll()
        found = self.best is not None and self.best.candidate == step
        if ends or found or (self.every and step % self.every == 0):
            trainer.save_checkpoint(step_folder(self.folder, step))
            completed = self.writer is None or (ends and self.writer.finish()) or completed
        if completed:
            self._name_best()
        if completed and not (self.writer and self.writer.pending):
            keep_newest(self.folder, self.keep, self._spared() if runtime.rank() == 0 else [])

    def _name_best(self) -> None:
        if self.best is not None and runtime.rank() == 0:
            self.best.settle()

    def _spared(self) -> list[int]:
        """The best checkpoint stays, also where a resumed run validates no more."""
        if self.best is not None:
            return self.best.spared
        named = read_best(self.folder.parent)
        return [] if named is None else [named.step]
