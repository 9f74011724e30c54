"""What an evaluation task is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nemo_mm_align.core.construction import check_has, construct
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.judging import Judged, TaskQuestion
from nemo_mm_align.evaluation.measures import Measure, measure_of
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Candidate, Prompt


@dataclass(frozen=True)
class Answered:
    """A prompt with a model's answer.

    Args:
        num_tokens: of all its answers, if the generator told it.
        asked: the attribute values that it was asked for, if any.
        image_paths: where the prompt's images lie.
        ratings: what a judge says of it, for a task that wants it; None where the judge said nothing (`failure`).
        follow_up_answers: to the prompt's follow-ups, as many as could be asked.
        judged: what a judge replied to the task's own questions about it, by their keys.
        finish_reason: ``length`` where the limit cut an answer; "" where nobody said.
    """

    prompt: Prompt
    text: str
    num_tokens: int | None = None
    asked: Mapping[str, float] | None = None
    image_paths: tuple[Path, ...] = ()
    ratings: Mapping[str, float] | None = None
    failure: str = ""
    follow_up_answers: tuple[str, ...] = ()
    judged: Mapping[str, Judged] = field(default_factory=dict)
    finish_reason: str = ""

    @property
    def num_words(self) -> int:
        """Words of all its answers."""
        return sum(len(text.split()) for text in (self.text, *self.follow_up_answers))


def answered_by(
    prompt: Prompt, candidate: Candidate, images: tuple[Path, ...], asked: Mapping[str, float] | None = None
) -> Answered:
    """Return a prompt with what a model answered: tokens of all its answers, ``length`` where the limit cut one."""
    return Answered(
        prompt,
        candidate.text,
        candidate.total_tokens,
        asked,
        images,
        follow_up_answers=candidate.follow_up_answers,
        finish_reason=candidate.ended,
    )


class Task(Protocol):
    """Scores answers. The first of its measures is what methods are compared by.

    What not every task has are attributes and methods of their own, which `optional.py` looks for:

    * `rated`, true: it wants a judge's ratings of every answer on the schema (`Answered.ratings`);
    * `swept`, true: each prompt is answered once per value of each attribute; answers are those of a sweep;
    * `answer_folders`, true: `read_answers` takes a folder, too;
    * `prompts(images) -> list[Prompt]`: it brings its own prompts (`BringsPrompts`), with follow-ups and decoding settings;
    * `questions(answered) -> list[TaskQuestion]`: it asks a judge in its own words (`AsksJudge`) about one answer;
    * `statistics`: figures that are no means over answers (`Statistic`);
    * `sources`: the files that it was made of (`SourceFile`);
    * `read_answers(path)`, `field_files(name, scored)`: files of the field, in and out (`FieldFiles`); `answer_form`: what the
      former are called, for messages.
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


@runtime_checkable
class BringsPrompts(Protocol):
    """A task with prompts of its own."""

    def prompts(self, images: Path) -> list[Prompt]:
        """Return its prompts with distinct ids; image paths are absolute.

        Args:
            images: a folder of its own, made where it is needed, for images that lie inside a data file.

        Raises:
            UserError: its data are missing or broken; the message names file and line.
        """


@runtime_checkable
class AsksJudge(Protocol):
    """A task that asks a judge in its own words. `Answered.judged` holds the replies when it scores."""

    def questions(self, answered: Answered) -> list[TaskQuestion]:
        """Return what is asked about one answer, with distinct keys; nothing where nothing is to be asked."""


@runtime_checkable
class FieldFiles(Protocol):
    """A task that reads and writes the files by which other tools exchange its answers."""

    def read_answers(self, path: Path) -> dict[str, tuple[str, ...]] | None:
        """Return per prompt id the answer and those to its follow-ups; None for a file that is not of the field's form.

        Raises:
            UserError: it is, and it is broken; the message names file and line.
        """

    def field_files(self, name: str, scored: Sequence[ScoredAnswer]) -> Mapping[str, str | bytes]:
        """Return files by their names, text or (workbooks) bytes: a method's answers, and what was said of them."""


def build_task(config: Mapping[str, Any], schema: AttributeSchema, section: str = "task") -> Task:
    """Return the task that `_target_` names; a class with an argument `schema` is given the run's.

    Args:
        section: where the configuration has it, for messages.
    """
    task: Task = construct(config, section, "evaluation tasks", {"schema": schema})
    check_has(task, ("name", "measures", "score", "reference", "cautions"), section, "an evaluation task")
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
