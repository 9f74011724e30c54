"""How much the images matter to a run, measured before its first step and after its last one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.run_health import (
    ImageEffect,
    ImageMeasurement,
    ImageSensitivity,
    RunHealth,
    read_health,
    write_health,
)
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.first_rank import on_first_rank

logger = logging.getLogger(__name__)


class MeasureImages(Callback):
    """Keeps both measurements in the run's health file; a resumed run keeps those that are there. Stands before the saving,
    so that a run that is killed between the two measures again.

    Args:
        folder: of the run.
        about: what is measured; without samples nothing is.
        measure: returns the effects; all ranks call it.
        total_steps: length of the run.
    """

    def __init__(
        self, folder: Path, about: ImageSensitivity, measure: Callable[[], dict[str, ImageEffect]], total_steps: int
    ) -> None:
        self.folder, self.about, self.measure, self.total = folder, about, measure, total_steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure before the first step, unless an earlier start of this very run has."""
        step = trainer.global_step
        begun = on_first_rank(lambda: self._begin(step))
        if not begun and step == 0 and self.about.samples:
            self._record("start", step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *unused: Any) -> None:
        """Measure after the last step."""
        if trainer.global_step == self.total and self.about.samples:
            self._record("end", self.total)

    def _begin(self, step: int) -> bool:
        """Write what is known of this run, without the end of a shorter or an earlier one; return whether it has a start."""
        health = read_health(self.folder)
        same = health.images is not None and health.images.key == self.about.key
        start = health.images.start if same and health.images is not None else None
        images = self.about.model_copy(update={"start": start})
        self._write(health.model_copy(update={"images": images, "verdict": None}))
        if not self.about.samples:
            logger.info("image sensitivity: not measured, %s", self.about.why_none)
        elif start is None and step:
            logger.warning("image sensitivity: this run was begun without measuring it; only its end will be known")
        return start is not None

    def _write(self, health: RunHealth) -> None:
        """Write the file; a full disk is for the checkpoint to end the run with, which clears up behind itself."""
        try:
            write_health(self.folder, health)
        except (OSError, UserError) as error:
            logger.warning("image sensitivity could not be written: %s", error)

    def _record(self, place: str, step: int) -> None:
        effects = self.measure()
        if runtime.rank() == 0:
            health = read_health(self.folder)
            assert health.images is not None
            images = health.images.model_copy(update={place: ImageMeasurement(step=step, effects=effects)})
            self._write(health.model_copy(update={"images": images}))
            for name, effect in effects.items():
                logger.info("image sensitivity at the %s, %s: %s", place, name, in_words(effect))


def in_words(effect: ImageEffect) -> str:
    """``0.812 ± 0.050 nats (1.204 with its own images, 2.016 with another sample's)``."""
    error = "" if effect.standard_error is None else f" ± {effect.standard_error:.3f}"
    own = f"{effect.own:.3f} with a sample's own images, {effect.exchanged:.3f} with another one's"
    return f"{effect.effect:.3f}{error} nats ({own})"
