"""results.json: every number of an evaluation, with what made it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nemo_mm_align.core import packages
from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.run_health import Verdict
from nemo_mm_align.evaluation.cost import Cost
from nemo_mm_align.evaluation.intervals import Interval
from nemo_mm_align.evaluation.measures import Measure, Measurement, shown_of
from nemo_mm_align.recipes.registry import paper_recipes

BASE = "base"
"""What all methods start from, and are compared with."""

UNASKED, BRIEF = "_unasked", "_brief"
VARIANTS = {UNASKED: "nothing asked", BRIEF: "asked to be brief"}
"""What stands behind the name of a steered method for answers to another request than its default, and what that is."""


def variant_of(name: str) -> tuple[str, str]:
    """Split a name of answers into the method and what stands behind it (`VARIANTS`, or nothing)."""
    behind = next((suffix for suffix in VARIANTS if name.endswith(suffix)), "")
    return name.removesuffix(behind), behind


VERSIONED = ("torch", "megatron-core", "nemo_toolkit", "transformers", "lightning", "numpy", "nemo_mm_align")


class Section(BaseModel):
    """Base of every part: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class TrainingFacts(Section):
    """What one method's training consisted of.

    Args:
        examples: number of training examples (pairs, for DPO).
        epochs: passes over them (a fraction where training stops inside one).
        optimizer_steps: number of weight updates.
        seconds: duration of the training loop.
        losses: (optimizer step, loss) pairs for the curve.
        settings: learning rate, batch size and whatever else the recipe wants to show.
        health: the verdict that the run wrote at its end, if it has.
    """

    examples: int | None = None
    epochs: float | None = None
    optimizer_steps: int | None = None
    seconds: float | None = None
    losses: list[tuple[int, float]] = []
    settings: dict[str, Any] = {}
    health: Verdict | None = None


class MethodResult(Section):
    """One method on the held-out prompts. What is None or absent, there was nothing to measure on.

    Args:
        score, text_score: the values of these measurements, where a reader looks for them.
        measurements: by the names of `Results.measures`, ``name.part`` of grouped ones.
        asked: the attribute values it was asked for, if the method was steered.
        training: how it was trained, for the first seed (the base: its last stage).
    """

    score: float | None = None
    text_score: float | None = None
    measurements: dict[str, Measurement] = {}
    asked: dict[str, float] | None = None
    training: TrainingFacts | None = None

    def value(self, name: str) -> float | None:
        """Value of a measurement; None where there is none."""
        found = self.measurements.get(name)
        return None if found is None else found.value


class CurvePoint(Section):
    """Means of the answers that were asked for one value: the judged value, score, words, and correctness where it is judged."""

    asked: float
    judged: float
    count: int
    interval: Interval | None = None
    score: float | None = None
    words: float | None = None
    correctness: float | None = None


class SteeringResult(Section):
    """Asked against judged for one attribute, the others being asked at their defaults.

    Args:
        spearman: rank correlation over single answers, mean over seeds; 0 where all judged values agree (the request
            changes nothing).
        spearman_per_seed: None for a seed that was asked for fewer than two values.
        interval: of `spearman`: over seeds; of a single run by resampling its prompts.
        mae: mean of |judged - asked| over single answers, then over seeds.
        mae_per_seed, mae_interval: of it.
        at_equal_length: rank correlation with the number of words held constant (partial Spearman), mean over seeds; None
            where words settle what was asked.
        cross_talk: of each other attribute that is a matter of taste: change of its judged value per step asked of this one
            (least squares), mean over seeds.
        curve: means by asked value.
        slope, slope_interval: change of the judged value per step asked (least squares over single answers), mean over seeds.
        never_against, never_against_interval: share of prompts whose judged value never falls as more is asked for, equal values
            allowed; mean over seeds.
        strictly_follows: share of prompts whose judged value rises with every value asked.
        range: largest less smallest of the means at each asked value, mean over seeds.
        matrix: of every attribute, this one included, the change of its judged value per step asked of this one.
    """

    spearman: float | None
    spearman_per_seed: list[float | None]
    interval: Interval | None = None
    mae: float | None = None
    mae_per_seed: list[float] = []
    mae_interval: Interval | None = None
    at_equal_length: float | None = None
    cross_talk: dict[str, float] = {}
    curve: list[CurvePoint]
    slope: float | None = None
    slope_interval: Interval | None = None
    never_against: float | None = None
    never_against_interval: Interval | None = None
    strictly_follows: float | None = None
    range: float | None = None
    matrix: dict[str, float] = {}


class TextAbility(Section):
    """Share of text instructions followed around visual tuning (after each method: its `text_score`)."""

    before_visual_tuning: float | None = None
    after_visual_tuning: float | None = None
    intervals: dict[str, Interval] = {}
    per_seed: dict[str, list[float]] = {}


class Layout(Section):
    """How a stage was spread over processes, as its ranks reported it."""

    world_size: int
    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    sequence_parallel: bool = False


class SourceFacts(Section):
    """A file that a task was made of; `said`: "as published", "changed" or that no published hash is known."""

    name: str
    sha256: str
    published: bool | None = None
    said: str


class Reproduction(Section):
    """What it takes to repeat an evaluation.

    Args:
        command: as it was typed.
        task: the task's settings, `_target_` included.
        judge: name of the judge, "" where none was asked.
        judge_settings: its settings, without keys.
        judge_versions: models that said that they replied.
        decoding: how the answers were generated, by method where they differ.
    """

    command: str = ""
    task: dict[str, Any] = {}
    judge: str = ""
    judge_settings: dict[str, Any] = {}
    judge_versions: list[str] = []
    decoding: dict[str, Any] = {}


class Resampling(Section):
    """What intervals and p-values of a single run rest on.

    Args:
        groups: that were drawn with replacement; prompts of a group were drawn together.
        prompts: in them.
        resamples: of the intervals.
        permutations: random sign flips of the p-values; with few groups all flips were made.
        seed: of both.
    """

    groups: int
    prompts: int
    resamples: int
    permutations: int
    seed: int


class Results(Section):
    """Everything that is reported.

    `task` names what was evaluated, `measures` what it measures, the first being what methods are compared by; `prompts` counts
    the held-out prompts by kind. `steering` is of the first steered method, by attribute, `steering_by_method` of all.
    `attribute_model` holds the figures of each seed's attribute model as ``scripts/attribute_report.py`` writes them. `layouts`
    and `settings` are by stage; `created` is an ISO date and time. `resampling` is there where intervals come of a bootstrap;
    `sources` are the files that the task was made of.
    """

    format: Literal[2] = 2
    created: str
    task: str
    seeds: list[int]
    schema_name: str
    measures: tuple[Measure, ...]
    prompts: dict[str, int] = {}
    methods: dict[str, MethodResult]
    steering: dict[str, SteeringResult] = {}
    steering_by_method: dict[str, dict[str, SteeringResult]] = {}
    text_ability: TextAbility = TextAbility()
    attribute_model: list[dict[str, Any]] = []
    layouts: dict[str, Layout] = {}
    versions: dict[str, str] = {}
    settings: dict[str, Any] = {}
    notes: list[str] = []
    resampling: Resampling | None = None
    cost: Cost | None = None
    sources: list[SourceFacts] = []
    reproduction: Reproduction | None = None

    @property
    def primary(self) -> Measure:
        """What methods are compared by."""
        return self.measures[0]

    @property
    def columns(self) -> list[Measure]:
        """Measures that reports show of the methods, but the first and those with a value per part."""
        shown = shown_of(self.measures[1:], (method.measurements for method in self.methods.values()))
        return [measure for measure in shown if not measure.grouped]

    @property
    def missing_methods(self) -> list[str]:
        """Methods of a complete run, the base and the paper's recipes, that this one left out; others may stand beside them."""
        return [name for name in (BASE, *paper_recipes()) if name not in self.methods]


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number; packages that are not installed are left out."""
    return {"python": platform.python_version(), **packages.installed_versions(VERSIONED)}


_ONLY_WHERE_KNOWN = ("resampling", "cost", "sources", "reproduction")
"""Keys that a file lacks where there is nothing to say."""


def write_results(path: str | Path, results: Results) -> None:
    """Write results.json in one go."""
    unknown = {name for name in _ONLY_WHERE_KNOWN if not getattr(results, name)}
    write_text(path, results.model_dump_json(indent=2, exclude=unknown) + "\n")


def read_results(path: str | Path) -> Results:
    """Read results.json; raise `UserError` if it is missing or not one."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. Run an evaluation first; it writes results.json.")
    try:
        return Results.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "file"
        raise UserError(f"{path}: not a result of this version ({where}: {fault['msg']}). Evaluate again.") from None
