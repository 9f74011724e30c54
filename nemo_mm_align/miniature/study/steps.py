"""The steps of a study's jobs, each a command as a user gives it on own data; the last one of a cell writes its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nemo_mm_align.core.hashing import hash_json
from nemo_mm_align.evaluation.results import BASE
from nemo_mm_align.miniature.base_steps import base_steps
from nemo_mm_align.miniature.commands import Commands
from nemo_mm_align.miniature.pipeline import world_step
from nemo_mm_align.miniature.steps import Step
from nemo_mm_align.miniature.study.study import Cell, Study

STEERING = "steering"
"""Name of answers under every value of every attribute."""


class StudySteps:
    """Makes the steps.

    Args:
        study: the whole.
        measure: writes the figures of a cell.
    """

    def __init__(self, study: Study, measure: Callable[[Cell], None]) -> None:
        self.study, self.measure = study, measure
        self.commands = Commands(study.run)

    def shared(self) -> list[Step]:
        """World, base and the base's answers: the same for all cells."""
        run = self.study.run
        asked = self.commands.answers(
            "base_answers", self._base, run.evaluation_prompts, self.study.base_answers, ["base", "world"]
        )
        return [world_step(run), *base_steps(run), asked]

    def base_round(self, seed: int) -> list[Step]:
        """The base's judged answers to the training prompts."""
        return self._round(BASE, seed, self._base, {}, hash_json([self.study.world_settings, seed]), [])

    def round_of(self, start: Cell) -> list[Step]:
        """A trained model merged, and its judged answers to the training prompts, under requests drawn for each."""
        run, tag = self.study.run, start.tag
        model = {"checkpoint": str(self.study.trained(start)), **self.commands.layout}
        drawn = {"draw_from": str(run.annotations(start.seed, BASE))}
        merge = self.commands.export(
            f"{tag}_merge", self.study.trained(start), self.study.merged(start), [f"{tag}_train"]
        )
        of = self.study.hash_of(start)
        return [
            *self.training(start),
            _with(merge, of),
            *self._round(start.variant, start.seed, model, drawn, of, [f"{tag}_train"]),
        ]

    def _round(
        self, model: str, seed: int, sampled: dict[str, Any], drawn: dict[str, Any], of: str, depends: Sequence[str]
    ) -> list[Step]:
        run, tag = self.study.run, f"seed{seed}_{model}"
        shape = run.settings.sampling.values(later=model != BASE)
        candidates = run.seed_folder(seed) / f"candidates_{model}.jsonl"
        steps = self.commands.judged_round(
            (f"{tag}_sample", f"{tag}_label"),
            {**sampled, "seed": seed, **shape, **drawn},
            candidates,
            run.annotations(seed, model),
            depends,
        )
        return [_with(step, of) for step in steps]

    def training(self, cell: Cell) -> list[Step]:
        """The training set of a cell and its training."""
        study, tag, folder = self.study, cell.tag, self.study.folder(cell)
        start, data, recipe = study.start_of(cell), folder / "train.jsonl", study.settings.recipe_of(cell.variant)
        built = {
            "method": study.method(cell),
            "annotations": str(study.run.annotations(cell.seed, start.variant if start else BASE)),
            **({"method.seed": cell.seed} if "seed" in study.settings_of(cell)["method"] else {}),
        }
        values = {
            "model.hf_path": str(study.merged(start) if start else study.run.base),
            "data.train": str(data),
            "seed": cell.seed,
        }
        build = self.commands.step(f"{tag}_build", "build", built, data, [], study.words(cell, "build"))
        train = self.commands.training(
            f"{tag}_train", recipe or "", study.trained(cell), values, [f"{tag}_build"], study.words(cell, "train")
        )
        return [_with(step, study.hash_of(cell)) for step in (build, train)]

    def cell(self, cell: Cell) -> list[Step]:
        """Everything of a cell up to its figures."""
        study, tag = self.study, cell.tag
        of = study.hash_of(cell)
        measured = Step(f"{tag}_measure", lambda: self.measure(cell), [study.figures(cell)], settings={"of": of})
        if study.settings.recipe_of(cell.variant) is None:
            return [measured]
        asked = [self._asked(cell, request, words) for request, words in study.requests_of(cell).items()]
        if study.is_steered(cell):
            asked.append(self._asked(cell, STEERING, ["sweep=all"]))
        return [*self.training(cell), *(_with(step, of) for step in asked), measured]

    def _asked(self, cell: Cell, request: str, words: Sequence[str]) -> Step:
        study, run = self.study, self.study.run
        prompts: Path = run.steering_prompts if request == STEERING else run.evaluation_prompts
        model = {"checkpoint": str(study.trained(cell)), **self.commands.layout}
        name = answers_step(cell, request)
        return self.commands.answers(name, model, prompts, study.answers(cell, request), [f"{cell.tag}_train"], words)

    @property
    def _base(self) -> dict[str, Any]:
        return {**self.commands.start(self.study.run.base), **self.commands.layout}


def _with(step: Step, of: str) -> Step:
    """A step that is repeated as well where what it is made of changes in an earlier job."""
    return Step(step.name, step.command, step.outputs, step.depends, {"of": of}, step.progress)


def answers_step(cell: Cell, request: str) -> str:
    """Return the name of the step that asks a cell's model."""
    return f"{cell.tag}_answers{'_' if request else ''}{request}"
