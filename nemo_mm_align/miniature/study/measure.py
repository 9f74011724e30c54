"""From a cell's answers to its figures."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from nemo_mm_align.core.repository import ROOT
from nemo_mm_align.evaluation.answer_files import read_answers
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.length_control import length_controlled
from nemo_mm_align.evaluation.metrics import TEXT_SCORE
from nemo_mm_align.evaluation.resampled import answer_values
from nemo_mm_align.evaluation.results import SteeringResult, installed_versions
from nemo_mm_align.evaluation.steering import steering_results
from nemo_mm_align.miniature.outcome import training_facts
from nemo_mm_align.miniature.steps import StepRunner
from nemo_mm_align.miniature.study.figures import CellFigures, Level, Offer, Spent, Steering, Trained, write_figures
from nemo_mm_align.miniature.study.steps import STEERING, answers_step
from nemo_mm_align.miniature.study.study import Cell, Study
from nemo_mm_align.miniature.task import MiniatureTask
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt, read_records

SCORE = "score"


class Measuring:
    """Measures cells of a study.

    Args:
        study: the whole.
        runner: knows how long the steps took.
    """

    def __init__(self, study: Study, runner: StepRunner) -> None:
        self.study, self.runner = study, runner
        self.task = MiniatureTask(study.run.settings.attribute_schema)

    def write(self, cell: Cell) -> None:
        """Judge a cell's answers and write its figures."""
        study = self.study
        requests = study.requests_of(cell)
        paths = {request: study.answers(cell, request) for request in requests}
        if study.settings.recipe_of(cell.variant) is None:
            paths = {"": study.base_answers}
        answers = {request: self._scored(path) for request, path in paths.items()}
        base = self._scored(study.base_answers)
        swept = self._scored(study.answers(cell, STEERING)) if study.is_steered(cell) else []
        steering = steering_results([swept], self.task.schema) if swept else {}
        figures = CellFigures(
            variant=cell.variant,
            recipe=study.settings.recipe_of(cell.variant),
            seed=cell.seed,
            settings_hash=study.hash_of(cell),
            settings=study.settings_of(cell),
            commit=commit_of(ROOT),
            versions=installed_versions(),
            machine=f"{platform.machine()} {platform.system()}, {cpu_name()}",
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            measured={request: means(found) for request, found in answers.items()},
            base=means(base),
            text_before_visual_tuning=self._text_before(),
            length_controlled={
                request: controlled.difference
                for request, found in answers.items()
                if (controlled := length_controlled(found, base, SCORE, resamples=0))
            },
            steering={name: steering_of(result) for name, result in steering.items()},
            offer=offer_of(swept, self.task.schema) if swept else self._unsteered(answers[""]),
            training=self._trained(cell),
            spent=self._spent(cell),
        )
        write_figures(study.figures(cell), figures)

    def _scored(self, path: Path) -> list[ScoredAnswer]:
        prompts = {one.id: one for one in read_records(self.study.run.evaluation_prompts, Prompt)}
        return self.task.score(read_answers(path, prompts, self.task.schema, self.study.run.evaluation_prompts))

    def _text_before(self) -> float | None:
        path = self.study.run.text_before
        return means(self._scored(path)).get(TEXT_SCORE) if path.is_file() else None

    def _unsteered(self, answers: Sequence[ScoredAnswer]) -> Offer:
        asked = {one.id for one in read_records(self.study.run.steering_prompts, Prompt)}
        return unsteered_offer([answer for answer in answers if answer.prompt_id in asked], self.task.schema)

    def _trained(self, cell: Cell) -> Trained | None:
        facts = training_facts(self.study.trained(cell))
        if facts is None:
            return None
        health = None if facts.health is None else facts.health.summary
        return Trained(examples=facts.examples, steps=facts.optimizer_steps, epochs=facts.epochs, health=health)

    def _spent(self, cell: Cell) -> Spent:
        """Of the training alone, and of all steps that are the cell's own."""
        asked = [answers_step(cell, request) for request in (*self.study.requests_of(cell), STEERING)]
        own = [f"{cell.tag}_build", f"{cell.tag}_train", *asked]
        return Spent(
            training_seconds=self.runner.seconds(f"{cell.tag}_train"),
            training_cpu_seconds=self.runner.cpu_seconds(f"{cell.tag}_train"),
            seconds=sum(self.runner.seconds(name) or 0 for name in own),
            cpu_seconds=sum(self.runner.cpu_seconds(name) or 0 for name in own),
        )


def means(answers: Sequence[ScoredAnswer]) -> dict[str, float]:
    """Return the mean of every measure over the answers that have it."""
    return {name: float(np.mean(list(values.values()))) for name, values in answer_values(answers).items()}


def steering_of(result: SteeringResult) -> Steering:
    """Return what is kept of one attribute's sweep."""
    levels = [
        Level(
            asked=point.asked,
            judged=point.judged,
            score=point.score or 0.0,
            correctness=point.correctness,
            words=point.words or 0.0,
        )
        for point in result.curve
    ]
    return Steering(
        spearman=result.spearman or 0.0,
        mae=result.mae or 0.0,
        at_equal_length=result.at_equal_length,
        slope=result.slope,
        cross_talk=result.cross_talk,
        levels=levels,
    )


def tastes_of(schema: AttributeSchema) -> dict[str, list[float]]:
    """Return the attributes that are matters of taste, each with its values."""
    return {
        one.name: [float(value) for value in np.arange(one.minimum, one.maximum + 0.5)]
        for one in schema.attributes
        if one.higher_is_better is None
    }


def offer_of(swept: Sequence[ScoredAnswer], schema: AttributeSchema) -> Offer:
    """Return what a steered model offers, of its answers under one taste after the other."""
    found: list[Offer] = []
    for name in tastes_of(schema):
        others = [other for other in schema.names if other != name]
        own = [
            (answer, answer.asked)
            for answer in swept
            if answer.asked and name in answer.asked and _at_default(answer.asked, others, schema)
        ]
        if own:
            quality = float(np.mean([schema.total(answer.ratings) for answer, _ in own]))
            error = float(np.mean([abs(answer.ratings[name] - asked[name]) for answer, asked in own]))
            found.append(Offer(quality=quality, error=error))
    return _mean_of(found)


def _at_default(asked: Mapping[str, float], others: Sequence[str], schema: AttributeSchema) -> bool:
    return all(asked[other] == schema[other].default for other in others if other in asked)


def unsteered_offer(answers: Sequence[ScoredAnswer], schema: AttributeSchema) -> Offer:
    """Return what a model offers that answers alike whatever is asked for."""
    rated = [answer for answer in answers if answer.ratings]
    quality = float(np.mean([schema.total(answer.ratings) for answer in rated]))
    found = [
        Offer(quality=quality, error=abs(answer.ratings[name] - value))
        for answer in rated
        for name, values in tastes_of(schema).items()
        for value in values
    ]
    return _mean_of(found)


def _mean_of(offers: Sequence[Offer]) -> Offer:
    return Offer(
        quality=float(np.mean([one.quality for one in offers])), error=float(np.mean([one.error for one in offers]))
    )


def commit_of(root: Path) -> str:
    """Return the commit of the code, marked where files that are tracked have changed; "unknown" without git."""
    command = ["git", "-c", f"safe.directory={root}", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def cpu_name() -> str:
    """Return what the machine's processor calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or "unknown processor"
