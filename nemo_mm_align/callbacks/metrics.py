"""Every step's metrics as one JSON line, for plots and for comparing runs; a resumed run continues the list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nemo_mm_align.parallel import runtime


class WriteMetrics(Callback):
    """Rank 0 appends ``{"step": n, "loss": ..., ...}`` to `path`; steps count from 1."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop lines of steps that will be run again, and a line torn by a kill."""
        if runtime.rank() != 0:
            return
        kept = [line for line in read_metrics(self.path) if line["step"] <= trainer.global_step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Append this step's line."""
        if runtime.rank() == 0:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": trainer.global_step, **outputs["metrics"]}) + "\n")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the complete lines of a metrics file, oldest first; none if there is no file."""
    lines: list[dict[str, float]] = []
    if path.is_file():
        for text in path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines
