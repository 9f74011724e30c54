"""What is known of one round: its samples as they were judged, the set built of them, its training and the verdict on it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from nemo_mm_align.callbacks.health_series import Series
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.run_files import DIVERGED_FILE, DONE_FILE, METRICS_FILE, read_metrics
from nemo_mm_align.core.run_health import read_health
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Annotation, read_records

DIVERGED = "diverged"
METRICS = ("loss", "rewards/margins", "rewards/accuracies")
"""Of a training: those that its recipe has, as means of the last fifth of the steps."""


class Part(BaseModel):
    """Base of the parts: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Samples(Part):
    """What the judge said of a round's samples.

    Args:
        prompts, candidates: how many.
        score: mean quality score (sum over the schema's `score`): first of a prompt's candidates, then of the prompts.
        standard_error: of `score`, over prompts; None of a single one.
        attributes: mean rating of each attribute, over candidates.
        words: mean length of a candidate.
        cut: share of candidates that the token limit cut.
    """

    prompts: int
    candidates: int
    score: float
    standard_error: float | None
    attributes: dict[str, float]
    words: float
    cut: float


class TrainingSet(Part):
    """What was built: examples, and the share of the prompts that gave any."""

    examples: int
    prompts_kept: float


class Trained(Part):
    """A training that has ended.

    Args:
        folder: of the run, with its checkpoints.
        steps: that it made.
        metrics: see `METRICS`.
        worries: rules of its verdict that found something to look at; ``diverged`` where it ended by that.
        summary: the verdict in words.
    """

    folder: str
    steps: int
    metrics: dict[str, float]
    worries: list[str]
    summary: str


class RoundRecord(Part):
    """One round.

    Args:
        round: its number.
        sampled_from: the model that gave its samples.
        samples, training_set, trained: None as long as they are not there.
        stopped: why there are no rounds after it, or no training in it; None where it did not end the rounds.
        model: of the last good round by now.
    """

    round: int
    sampled_from: str
    samples: Samples | None = None
    training_set: TrainingSet | None = None
    trained: Trained | None = None
    stopped: str | None = None
    model: str


def read_samples(annotations: Path, schema: AttributeSchema) -> Samples:
    """Return what the annotations of a round say; raise `UserError` for a file that is missing, empty or of another schema."""
    scores: list[float] = []
    ratings: dict[str, list[float]] = {name: [] for name in schema.names}
    words: list[int] = []
    cut = 0
    for item in _of_schema(read_records(annotations, Annotation), annotations, schema):
        scores.append(statistics.fmean(schema.total(one.ratings) for one in item.candidates))
        for one in item.candidates:
            words.append(len(one.text.split()))
            cut += one.finish_reason == "length"
            for name in schema.names:
                ratings[name].append(one.ratings[name])
    return Samples(
        prompts=len(scores),
        candidates=len(words),
        score=statistics.fmean(scores),
        standard_error=statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None,
        attributes={name: statistics.fmean(values) for name, values in ratings.items()},
        words=statistics.fmean(words),
        cut=cut / len(words),
    )


def _of_schema(items: Iterable[Annotation], path: Path, schema: AttributeSchema) -> Iterable[Annotation]:
    for item in items:
        if set(item.candidates[0].ratings) != set(schema.names):
            raise UserError(
                f"{path}: prompt {item.prompt.id} is rated by the schema {item.schema_name}, "
                f"{', '.join(item.candidates[0].ratings)}, not by {schema.name}, {', '.join(schema.names)}. Give "
                "attribute_schema=..."
            )
        yield item


def read_training_set(built: Path) -> TrainingSet:
    """Return what the summary beside a built set says of it."""
    summary = json.loads(_text(Path(f"{built}.summary.json"), "scripts/build.py writes it"))
    return TrainingSet(examples=summary["kept"], prompts_kept=summary["prompts_kept"] / max(1, summary["prompts"]))


def read_trained(run: Path) -> Trained:
    """Return how a training went; raise `UserError` where it has neither finished nor diverged."""
    lines = read_metrics(run / METRICS_FILE)
    ends = {name: Series(lines).ends(name) for name in METRICS}
    found: dict[str, Any] = {
        "folder": str(run),
        "steps": len(lines),
        "metrics": {name: value.last.mean for name, value in ends.items() if value is not None},
    }
    if (run / DONE_FILE).is_file():
        verdict = read_health(run).verdict
        worries = [one.rule for one in verdict.worries] if verdict else []
        return Trained(**found, worries=worries, summary=verdict.summary if verdict else "no verdict")
    report = json.loads(_text(run / DIVERGED_FILE, "the training has not finished; train it to its end first"))
    return Trained(**found, worries=[DIVERGED], summary=f"{DIVERGED} in step {report['step']}: {report['what']}")


def _text(path: Path, remedy: str) -> str:
    if not path.is_file():
        raise UserError(f"{path}: no such file: {remedy}.")
    return path.read_text(encoding="utf-8")


def read_record(path: Path) -> RoundRecord | None:
    """Return the record of a round; None where it has none yet."""
    return RoundRecord.model_validate_json(path.read_bytes()) if path.is_file() else None
