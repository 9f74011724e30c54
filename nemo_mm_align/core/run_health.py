"""What a training run finds out about itself: how much its images matter, and a verdict on its curves (metrics/health.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.core.errors import UserError

HEALTH_FILE = Path("metrics/health.json")
SCHEMA_VERSION: Literal[1] = 1


Rule = Literal[
    "steps",
    "learning rate",
    "loss",
    "accuracy",
    "displacement",
    "saturation",
    "distance",
    "length",
    "entropy",
    "gradient",
    "images",
    "overfitting",
    "validation accuracy",
    "answers",
]
"""Names of the rules that can worry."""


class Section(BaseModel):
    """Base of every part: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageEffect(Section):
    """What exchanging the images does to one measure, in nats.

    Args:
        own: mean over the samples with their own images.
        exchanged: the same with another sample's images.
        effect: how much worse the exchanged images make it, mean over samples; 0: images make no difference.
        standard_error: of `effect` over samples; None of a single one.
    """

    own: float
    exchanged: float
    effect: float
    standard_error: float | None


class ImageMeasurement(Section):
    """Effects by measure, after `step` steps; ``loss`` is among them."""

    step: int
    effects: dict[str, ImageEffect]


class ImageSensitivity(Section):
    """How the loss of a fixed set of training samples depends on their images, at both ends of a run.

    Args:
        key: tells the weights, samples and settings that it is about.
        samples: how many; 0 where nothing can be exchanged.
        why_none: in words, where nothing can be exchanged.
        start: before the first step; None for a run that was begun without it.
        end: after the last step; None for a run that has not come so far.
    """

    key: str
    samples: int
    why_none: str = ""
    start: ImageMeasurement | None = None
    end: ImageMeasurement | None = None


class Finding(Section):
    """What one rule says of a run.

    Args:
        rule: its name.
        worry: whether it is something to look at, or evidence that all is well.
        text: a sentence with its numbers; of a worry also with the remedy.
    """

    rule: str
    worry: bool
    text: str


class Verdict(Section):
    """What the curves of a run say after `steps` steps, worries first."""

    steps: int
    findings: list[Finding]

    @property
    def worries(self) -> list[Finding]:
        """What to look at."""
        return [finding for finding in self.findings if finding.worry]

    @property
    def summary(self) -> str:
        """``healthy``, or what to look at by the names of its rules."""
        return f"look at {', '.join(finding.rule for finding in self.worries)}" if self.worries else "healthy"


class RunHealth(Section):
    """The file."""

    schema_version: Literal[1] = SCHEMA_VERSION
    images: ImageSensitivity | None = None
    verdict: Verdict | None = None


def read_health(run: Path) -> RunHealth:
    """Return what stands in a run's folder; an empty one where there is no file.

    Raises:
        UserError: the file is of another version, or none of ours.
    """
    path = run / HEALTH_FILE
    if not path.is_file():
        return RunHealth()
    try:
        return RunHealth.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path}: {_fault(path, error)}. Move it away: training writes a new one.") from None


def _fault(path: Path, error: ValidationError) -> str:
    try:
        version = json.loads(path.read_bytes())["schema_version"]
    except (ValueError, KeyError, TypeError):
        version = None
    if version not in (None, SCHEMA_VERSION):
        return f"has schema_version {version}, this version reads {SCHEMA_VERSION}"
    fault = error.errors()[0]
    return f"is not what a training run writes ({'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']})"


def write_health(run: Path, health: RunHealth) -> None:
    """Write the file in one go."""
    write_text(run / HEALTH_FILE, health.model_dump_json(indent=1) + "\n")
