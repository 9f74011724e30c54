"""Every step's metrics as one JSON line, for plots and for comparing runs; a resumed run continues the list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nemo_mm_align.core.atomic import write_lines
from nemo_mm_align.core.run_files import read_metrics
from nemo_mm_align.parallel import runtime


class WriteMetrics(Callback):
    """Rank 0 appends ``{"step": n, "loss": ..., ...}`` to `path`, steps from 1: what docs/metrics.md lists."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop lines of steps that will be run again, and a line torn by a kill."""
        if runtime.rank() != 0:
            return
        kept = [line for line in read_metrics(self.path) if line["step"] <= trainer.global_step]
        write_lines(self.path, map(json.dumps, kept))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Append this step's line."""
        if runtime.rank() == 0:
            line = {"step": trainer.global_step, **outputs["metrics"]}
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
