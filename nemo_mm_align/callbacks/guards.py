"""Has a few prompts answered before the first step, every n steps and after the last one, and says what became of the answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer

from nemo_mm_align.callbacks.tables import log_values
from nemo_mm_align.callbacks.watch_rules import faults_of
from nemo_mm_align.core.atomic import write_lines
from nemo_mm_align.core.run_files import GUARD_ANSWERS_FILE, GUARDS_FILE, append_line, read_metrics
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.first_rank import on_first_rank

logger = logging.getLogger(__name__)


class Look(Protocol):
    """What was found in the answers of one moment."""

    @property
    def figures(self) -> dict[str, float]:
        """Means and shares, with names of metrics."""

    @property
    def answers(self) -> list[dict[str, str]]:
        """Who answered what."""


class LookAtAnswers(Callback):
    """Records what the model answers.

    Args:
        run: folder of the run.
        every: optimizer steps between two looks; 0: at both ends alone.
        total_steps: length of the run.
        look: has the prompts answered; all ranks call it, rank 0 learns of it.
        lengths: multiples of the first answers' length below and above which is warned.
        after: called on every rank when a look has ended.
    """

    def __init__(
        self,
        run: Path,
        every: int,
        total_steps: int,
        look: Callable[[], Look | None],
        lengths: tuple[float, float],
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self.run, self.every, self.total, self.look = run, every, total_steps, look
        self.lengths, self.after = lengths, after
        self._warned: list[str] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the first step; a resumed run goes on from what was recorded."""
        step = trainer.global_step
        known = on_first_rank(lambda: self._begin(step))
        if step == 0 and not known:
            self._record(trainer, step)
        elif not known:
            logger.warning(
                "guards: this run was begun without them; answers are compared with those after step %d", step
            )
            self._record(trainer, step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *unused: Any) -> None:
        """Look if this step is one of those."""
        step = trainer.global_step
        if step == self.total or (self.every and step % self.every == 0):
            self._record(trainer, step)

    def _begin(self, step: int) -> int:
        """Drop what was recorded after this step, which will be done again; return how much is left."""
        for name in (GUARD_ANSWERS_FILE, GUARDS_FILE):
            kept = [line for line in read_metrics(self.run / name) if line["step"] <= step]
            write_lines(self.run / name, map(json.dumps, kept))
        return len(kept)

    def _record(self, trainer: Trainer, step: int) -> None:
        found = self.look()
        self.after()
        if runtime.rank() == 0 and found is not None:
            for answer in found.answers:
                append_line(self.run / GUARD_ANSWERS_FILE, {"step": step, **answer})
            line = {"step": step, **found.figures}
            append_line(self.run / GUARDS_FILE, line)
            log_values(trainer, line)
            self._tell(line)

    def _tell(self, line: Mapping[str, float]) -> None:
        told = ", ".join(
            f"{name.removeprefix('guards/')} {value:.4g}" for name, value in line.items() if name != "step"
        )
        logger.info("answers after step %d: %s", line["step"], told)
        faults = faults_of(read_metrics(self.run / GUARDS_FILE)[0], line, self.lengths)
        for fault in faults:
            if fault not in self._warned:
                logger.warning("step %d: the model's answers have changed: %s (%s)", line["step"], fault, told)
        self._warned = faults
