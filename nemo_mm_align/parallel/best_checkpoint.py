"""The best checkpoint of a run, by what validation found: which it is, and the name by which every stage opens it.

`metrics/best.json` says it, and the link `best` in the run's folder leads there, so that ``checkpoint=RUN/best`` is a checkpoint
like any other. Which one is best follows from the validations that were recorded and the checkpoints that are there: a run that
was killed between the two finds it again.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nemo_mm_align.core.atomic import write_json
from nemo_mm_align.core.links import lead_to
from nemo_mm_align.core.run_files import BEST_FILE, BEST_LINK
from nemo_mm_align.parallel.checkpoint_folder import checkpoints_of, step_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Monitor:
    """What decides which checkpoint is best.

    Args:
        name: of a metric, as a line of validation has it.
        higher_is_better: else less is better.
    """

    name: str
    higher_is_better: bool

    def best(self, lines: Sequence[Mapping[str, float]]) -> Mapping[str, float] | None:
        """Return the best of these lines, of equal ones the first; None where none has a finite value."""
        sign = 1 if self.higher_is_better else -1
        known = [line for line in lines if math.isfinite(line.get(self.name, math.nan))]
        return max(known, key=lambda line: sign * line[self.name], default=None)


@dataclass(frozen=True)
class Best:
    """What `metrics/best.json` says.

    Args:
        step: of the checkpoint.
        monitor: the metric that it is best by.
        value: of that metric.
        data: fingerprint of the held-out samples.
    """

    step: int
    monitor: str
    value: float
    data: str


def read_best(run: Path) -> Best | None:
    """Return which checkpoint is named the best; None where none is, or the file is none of ours."""
    try:
        return Best(**json.loads((run / BEST_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def best_among(lines: Sequence[Mapping[str, float]], checkpoints: Path, monitor: Monitor) -> Mapping[str, float] | None:
    """Return the best of the validations whose checkpoint is there and complete."""
    steps = {int(path.name.removeprefix("step_")) for path in checkpoints_of(checkpoints)}
    return monitor.best([line for line in lines if int(line["step"]) in steps])


def name_best(run: Path, checkpoints: Path, best: Best | None) -> None:
    """Write down which checkpoint is the best and make the link lead there; None removes both."""
    link = run / BEST_LINK
    if best is None:
        (run / BEST_FILE).unlink(missing_ok=True)
        if link.is_symlink():
            link.unlink()
        return
    write_json(run / BEST_FILE, asdict(best))
    target = step_folder(checkpoints, best.step)
    try:
        lead_to(link, target)
    except OSError as error:
        logger.warning("%s could not be made (%s): the best checkpoint is %s", link, error.strerror or error, target)
