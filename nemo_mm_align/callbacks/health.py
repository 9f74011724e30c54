"""A verdict in words on an alignment run: what its own curves and its images say about whether it worked."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from nemo_mm_align.callbacks.health_rules import RULES
from nemo_mm_align.callbacks.health_series import Series
from nemo_mm_align.core.run_files import GUARDS_FILE, METRICS_FILE, VALIDATION_FILE, read_metrics
from nemo_mm_align.core.run_health import Finding, Verdict, read_health, write_health
from nemo_mm_align.parallel import runtime

logger = logging.getLogger(__name__)


def verdict(run: Series) -> Verdict:
    """Return what the rules find in a run, worries first, and how fast it was."""
    findings = [finding for rule in RULES if (finding := rule(run)) is not None]
    if run.lines and "tokens_per_s" in run.lines[-1]:
        findings.append(Finding(rule="speed", worry=False, text=_speed(run.lines)))
    return Verdict(steps=len(run.lines), findings=sorted(findings, key=lambda finding: not finding.worry))


def report_health(folder: Path, clip_grad: float, lengths: tuple[float, float] = (0.0, math.inf)) -> None:
    """Write the verdict on the run in a folder beside what else is known of its health, and log it.

    Args:
        clip_grad: longest gradient that an update took; 0: any.
        lengths: see `Series`.
    """
    health = read_health(folder)
    lines, validation, guards = (read_metrics(folder / name) for name in (METRICS_FILE, VALIDATION_FILE, GUARDS_FILE))
    found = verdict(Series(lines, clip_grad, health.images, validation, guards, lengths))
    write_health(folder, health.model_copy(update={"verdict": found}))
    logger.info("health after %d steps: %s", found.steps, found.summary)
    for finding in found.findings:
        logger.log(logging.WARNING if finding.worry else logging.INFO, "%s", finding.text)


def _speed(metrics: Sequence[Mapping[str, float]]) -> str:
    """Medians, which a slow first step and checkpoints do not move; lines of an older version have no speed."""

    def median(name: str) -> float | None:
        values = [line[name] for line in metrics if name in line]
        return statistics.median(values) if values else None

    mfu, peak = median("mfu"), max(line.get("peak_memory_gib", 0.0) for line in metrics)
    used = f", MFU {mfu:.0%}".replace("%", " %") if mfu is not None else ""
    filled = median("packing_efficiency")
    share = f", {filled:.0%} of the computed positions filled".replace("%", " %") if filled is not None else ""
    speed = f"{median('tokens_per_s'):,.0f} tokens/s{used}{share}"
    return f"{speed}, at most {peak:.1f} GiB on a rank (medians over the steps)"


class ReportHealth(Callback):
    """Writes and logs the verdict when training ends, at its last step or before.

    Args:
        folder: of the run.
        clip_grad, lengths: see `report_health`.
    """

    def __init__(self, folder: Path, clip_grad: float, lengths: tuple[float, float] = (0.0, math.inf)) -> None:
        self.folder, self.clip_grad, self.lengths = folder, clip_grad, lengths

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read what the run has recorded and say what it shows."""
        if runtime.rank() == 0:
            report_health(self.folder, self.clip_grad, self.lengths)
