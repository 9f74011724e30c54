"""The callbacks of a training run, in the order in which they look at a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl

from nemo_mm_align.callbacks.checkpointing import SaveCheckpoints
from nemo_mm_align.callbacks.guards import LookAtAnswers
from nemo_mm_align.callbacks.hangs import EndHangs
from nemo_mm_align.callbacks.health import ReportHealth
from nemo_mm_align.callbacks.images import MeasureImages
from nemo_mm_align.callbacks.metrics import WriteMetrics
from nemo_mm_align.callbacks.stopping import StopOnRequest
from nemo_mm_align.callbacks.stragglers import ReportStragglers
from nemo_mm_align.callbacks.validation import PREFIX, BestCheckpoint, Validate
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.run_files import METRICS_FILE, RANK_TIMES_FILE
from nemo_mm_align.core.run_health import ImageSensitivity, RunHealth, write_health
from nemo_mm_align.datasets.sample import SampleStore
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.parallel.background import BackgroundWriter
from nemo_mm_align.parallel.best_checkpoint import Monitor
from nemo_mm_align.parallel.first_rank import on_first_rank
from nemo_mm_align.parallel.stopping import StopRequest
from nemo_mm_align.schema.image_hashes import ImageHashes
from nemo_mm_align.training.data import Collator
from nemo_mm_align.training.early import CHECKPOINTS
from nemo_mm_align.training.guards import Guards
from nemo_mm_align.training.image_probe import ImageProbe, draw_exchanges
from nemo_mm_align.training.packing_settings import samples_of_padded_pass
from nemo_mm_align.training.settings import TrainSettings
from nemo_mm_align.training.validation import Validation, metric_names
from nemo_mm_align.training.validation_data import RunData


@dataclass
class Watching:
    """What callbacks look at beside a step's own figures.

    Args:
        settings: of the run.
        folder: of the run.
        total_steps: length of the run.
        model: returns this rank's stage, once there is one.
        progress: whether this rank shows bars.
        resume_clock: called when something that is no training step has ended.
    """

    settings: TrainSettings
    folder: Path
    total_steps: int
    model: Callable[[], Llava]
    progress: bool
    resume_clock: Callable[[], None]

    @property
    def checkpoints(self) -> Path:
        """The run's checkpoints folder."""
        return self.folder / CHECKPOINTS

    @property
    def lengths(self) -> tuple[float, float]:
        """How short and how long answers may become; any length where nobody asks for them."""
        guards = self.settings.guards
        return (guards.shortest, guards.longest) if guards.wanted else (0.0, math.inf)

    def images(
        self, samples: SampleStore, collator: Collator, fingerprint: str, hashes: ImageHashes
    ) -> list[pl.Callback]:
        """Measure how much the images matter, if that is asked for."""
        settings = self.settings
        if not settings.health.image_probe:
            on_first_rank(lambda: write_health(self.folder, RunHealth()))  # an earlier run's is not this one's
            return []
        exchanges, why_none = draw_exchanges(samples, settings.health.image_probe, settings.seed, hashes.of)
        chosen = [samples[exchange.sample] for exchange in exchanges]
        size = samples_of_padded_pass(settings, chosen) if chosen else 1
        probe = ImageProbe(samples, exchanges, collator, settings.recipe, size)
        key = probe.key(fingerprint, hashes.of)
        about = ImageSensitivity(key=key, samples=len(exchanges), why_none=why_none)
        return [MeasureImages(self.folder, about, lambda: probe.measure(self.model()), self.total_steps)]

    def best(self, samples: SampleStore) -> BestCheckpoint:
        """What the best checkpoint is chosen by."""
        validation = self.settings.validation
        monitor = Monitor(PREFIX + validation.monitor, validation.higher_is_better)
        return BestCheckpoint(self.folder, self.checkpoints, monitor, samples.fingerprint())

    def validation(self, validation: Validation, best: BestCheckpoint, stop: StopRequest, hangs: EndHangs) -> Validate:
        """Measure held-out samples."""

        def keep_on() -> bool:
            hangs.alive()
            return not stop.agreed()

        return Validate(
            self.settings.validation.every,
            self.total_steps,
            lambda: validation.measure(self.model(), keep_on),
            best,
            self.resume_clock,
        )

    def guards(self, guards: Guards) -> LookAtAnswers:
        """Have prompts answered."""
        return LookAtAnswers(
            self.folder,
            self.settings.guards.every,
            self.total_steps,
            lambda: guards.look(self.model(), self.progress),
            self.lengths,
            self.resume_clock,
        )

    def in_order(
        self,
        before_saving: list[pl.Callback],
        stop: StopOnRequest,
        hangs: EndHangs,
        writer: BackgroundWriter | None,
        best: BestCheckpoint | None,
    ) -> list[pl.Callback]:
        """Return all callbacks; what is measured after a step stands before the saving, so that a killed run measures again."""
        checkpoints, faults = self.settings.checkpoint, self.settings.faults
        save = SaveCheckpoints(
            self.checkpoints, checkpoints.every_n_steps, checkpoints.keep, self.total_steps, stop, writer, best
        )
        health = ReportHealth(self.folder, self.settings.model.optim.clip_grad, self.lengths)
        callbacks = [WriteMetrics(self.folder / METRICS_FILE), stop, *before_saving, save, health]
        if faults.straggler_every_n_steps:
            path = self.folder / RANK_TIMES_FILE
            callbacks.append(ReportStragglers(faults.straggler_every_n_steps, faults.straggler_ratio, path))
        if faults.hang_timeout_s:
            callbacks.append(hangs)
        return callbacks


def validation_of(
    settings: TrainSettings, data: RunData, collator: Collator, hidden_size: int, progress: bool
) -> Validation:
    """Return how held-out samples are measured, before there is a model.

    Raises:
        UserError: the monitored metric is none that the recipe tells, or nobody knows which way is better.
    """
    samples, head = data.validation, settings.recipe.head(settings.schema)
    assert samples is not None
    outputs = 0 if head is None else len(head.outputs)
    names = metric_names(settings.recipe, collator, samples[0], hidden_size, outputs)
    monitor = settings.validation.monitor
    told = sorted([*names, *settings.recipe.derived(dict.fromkeys(names, 0.0))])
    if monitor not in told:
        raise UserError(
            f"validation.monitor={monitor}: recipe={settings.recipe.name} tells no such metric. It tells {', '.join(told)}."
        )
    _ = settings.validation.higher_is_better
    size = settings.validation.micro_batch_size or samples_of_padded_pass(settings, samples)
    return Validation(samples, collator, settings.recipe, size, names, progress, data.mismatched_validation)
