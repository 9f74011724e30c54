"""Validates every n steps and at the end, and chooses the best checkpoint by it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nemo_mm_align.callbacks.health_series import Series
from nemo_mm_align.callbacks.tables import log_values
from nemo_mm_align.callbacks.watch_rules import overfitting
from nemo_mm_align.core.atomic import write_lines
from nemo_mm_align.core.run_files import METRICS_FILE, VALIDATION_FILE, append_line, read_metrics
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.best_checkpoint import Best, Monitor, best_among, name_best, read_best
from nemo_mm_align.parallel.first_rank import on_first_rank

logger = logging.getLogger(__name__)

PREFIX = "validation/"
"""Of the names of metrics, which are those of training behind it."""

_SHOWN = ("loss", "rewards/accuracies", "rewards/margins", "pair_accuracy")
"""In the log, beside what is monitored."""


@dataclass
class BestCheckpoint:
    """Which checkpoint of a run is the best so far; its files are rank 0's business.

    Args:
        run: its folder.
        checkpoints: folder of its checkpoints.
        monitor: what decides; a name with `PREFIX`.
        data: fingerprint of the held-out samples.
        candidate: step whose checkpoint is to be the best once it is complete; the same on all ranks.
    """

    run: Path
    checkpoints: Path
    monitor: Monitor
    data: str
    candidate: int | None = None
    _found: Mapping[str, float] | None = None

    @property
    def spared(self) -> list[int]:
        """Steps whose checkpoints are not to be removed: the best one, and the one that is to take its place."""
        named = read_best(self.run)
        return [step for step in (named.step if named else None, self.candidate) if step is not None]

    def begin(self, step: int) -> None:
        """Forget the validations after `step`, which will be done again, and those of other held-out data; name the best."""
        path, before = self.run / VALIDATION_FILE, read_best(self.run)
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        if before is not None and before.data != self.data and kept:
            logger.warning("%s: was validated on other data: what was best by them is not compared with", self.run)
            kept = []
        write_lines(path, map(json.dumps, kept))
        self._found = best_among(kept, self.checkpoints, self.monitor)
        name_best(self.run, self.checkpoints, self._best(self._found) if self._found else None)

    def note(self, line: Mapping[str, float]) -> bool:
        """Record a validation; return whether it is better than all before whose checkpoints are kept."""
        append_line(self.run / VALIDATION_FILE, dict(line))
        if not math.isfinite(line[self.monitor.name]):
            logger.warning("validation after step %d: %s is no number", line["step"], self.monitor.name)
            return False
        if self.monitor.best([*([self._found] if self._found else []), line]) is not line:
            return False
        self._found = line
        return True

    def settle(self) -> None:
        """Name the candidate the best if its checkpoint has become complete."""
        if self.candidate is None:
            return
        lines = [line for line in read_metrics(self.run / VALIDATION_FILE) if line["step"] == self.candidate]
        found = best_among(lines, self.checkpoints, self.monitor)
        if found is not None:
            name_best(self.run, self.checkpoints, self._best(found))

    def _best(self, line: Mapping[str, float]) -> Best:
        return Best(int(line["step"]), self.monitor.name, line[self.monitor.name], self.data)


class Validate(Callback):
    """Measures the held-out data; stands before the saving, which saves what is best.

    Args:
        every: optimizer steps between two validations; 0: only at the end.
        total_steps: length of the run.
        measure: returns the metrics, None where the run was asked to stop meanwhile; all ranks call it.
        best: is told of each validation.
        after: called on every rank when a validation has ended.
    """

    def __init__(
        self,
        every: int,
        total_steps: int,
        measure: Callable[[], dict[str, float] | None],
        best: BestCheckpoint,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self.every, self.total, self.measure, self.best, self.after = every, total_steps, measure, best, after
        self._warned = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on from what was recorded up to here."""
        step = trainer.global_step
        on_first_rank(lambda: self.best.begin(step))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *unused: Any) -> None:
        """Validate if this step is one of those."""
        step = trainer.global_step
        if step != self.total and not (self.every and step % self.every == 0):
            return
        values = self.measure()
        self.after()
        if values is None:
            logger.warning("asked to stop: the validation after step %d was left off", step)
            return
        line = {"step": step, **{PREFIX + name: value for name, value in values.items()}}
        if on_first_rank(lambda: self.best.note(line)):
            self.best.candidate = step
        if runtime.rank() == 0:
            log_values(trainer, line)
            self._tell(line)

    def _tell(self, line: Mapping[str, float]) -> None:
        shown = dict.fromkeys([self.best.monitor.name, *(PREFIX + name for name in _SHOWN)])
        told = ", ".join(f"{name.removeprefix(PREFIX)} {line[name]:.4f}" for name in shown if name in line)
        best = " (the best so far)" if self.best.candidate == line["step"] else ""
        logger.info("validation after step %d: %s%s", line["step"], told, best)
        run = self.best.run
        lines = read_metrics(run / VALIDATION_FILE)
        found = overfitting(Series(read_metrics(run / METRICS_FILE), validation=lines))
        worries = found is not None and found.worry
        if found is not None and worries and not self._warned:
            logger.warning("step %d: %s", line["step"], found.text)
        self._warned = worries
