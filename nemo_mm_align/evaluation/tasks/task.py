"""What an evaluation task is."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nemo_mm_align.core.construction import check_has, construct
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.measures import Measure, measure_of
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt


@dataclass(frozen=True)
class Answered:
    """A prompt with a model's answer.

    Args:
        asked: the attribute values that it was asked for, if any.
        image_paths: where the prompt's images lie.
        ratings: what a judge says of it, for a task that wants it; None where the judge said nothing (`failure`).
    """

    prompt: Prompt
    text: str
    num_tokens: int | None = None
    asked: Mapping[str, float] | None = None
    image_paths: tuple[Path, ...] = ()
    ratings: Mapping[str, float] | None = None
    failure: str = ""


class Task(Protocol):
    """Scores answers. The first of its measures is what methods are compared by.

    One that wants a judge's ratings of every answer has an attribute `rated` that is true.
    """

    @property
    def name(self) -> str:
        """What its figures are called."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """All that it can measure, in the order of the report's columns."""

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        """Return what each answer is worth, in order; `UserError` for a prompt that is none of this task's.

        An answer that could not be scored (a judge that failed) says so in `failed`.
        """

    def reference(self, prompt: Prompt) -> str:
        """Return what a right answer says, for the report; "" where nobody knows."""

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        """Return what a reader could take for success and is not."""


def wants_ratings(config: Mapping[str, Any]) -> bool:
    """Whether the task that `_target_` names wants a judge's ratings; False for one that cannot be found."""
    module_name, _, class_name = str(config.get("_target_", "")).rpartition(".")
    try:
        return bool(getattr(getattr(importlib.import_module(module_name), class_name), "rated", False))
    except (ImportError, AttributeError, ValueError):
        return False


def build_task(config: Mapping[str, Any], schema: AttributeSchema) -> Task:
    """Return the task that `_target_` names; a class with an argument `schema` is given the run's."""
    task: Task = construct(config, "task", "evaluation tasks", {"schema": schema})
    check_has(task, ("name", "measures", "score", "reference", "cautions"), "task", "an evaluation task")
    return task


def scored_by(task: Task, answered: Sequence[Answered]) -> list[ScoredAnswer]:
    """Return what a task's answers are worth; raise `UserError` where the task does not keep to its own measures."""
    scored = task.score(answered)
    asked, said = [one.prompt.id for one in answered], [one.prompt_id for one in scored]
    if asked != said:
        raise UserError(
            f"task {task.name}: was given {len(asked)} answers and scored {len(said)}, or in another order. Return one "
            "ScoredAnswer for each answer, in order; one that cannot be scored says why in `failed`."
        )
    for one in scored:
        for name, value in one.values.items():
            measure = measure_of(name, task.measures)
            if measure is None:
                known = ", ".join(item.name for item in task.measures)
                raise UserError(
                    f"task {task.name}: prompt {one.prompt_id} has a value of {name}; its measures are {known}."
                )
            if not math.isfinite(value) or (measure.share and value not in (0, 1)):
                wanted = "0 or 1, being a share" if measure.share else "a finite number"
                raise UserError(f"task {task.name}: prompt {one.prompt_id}: {name}={value:g} is not {wanted}.")
    return scored
