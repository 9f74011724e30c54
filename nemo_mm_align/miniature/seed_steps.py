"""One seed of a run: the base's answers judged, every method trained on them and asked, the attribute model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_mm_align.datasets.build_settings import RANDOM_METHODS
from nemo_mm_align.evaluation.results import BRIEF, UNASKED, variant_of
from nemo_mm_align.miniature.attribute_model import AttributeModelSteps
from nemo_mm_align.miniature.commands import JUDGE, Commands
from nemo_mm_align.miniature.folders import MiniatureRun
from nemo_mm_align.miniature.steps import Step
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.workflow.wiring import Wiring


class SeedSteps:
    """Makes the steps of one seed.

    Args:
        run: the whole.
        seed: which.
    """

    def __init__(self, run: MiniatureRun, seed: int) -> None:
        self.run, self.seed = run, seed
        self.commands = Commands(run)
        self.tag, self.folder = f"seed{seed}", run.seed_folder(seed)
        self._rounds: set[str] = set()

    def steps(self) -> list[Step]:
        """All of them, in order."""
        run = self.run
        steps = self._round("base", self._base, ["base", "world"])
        for method in run.settings.methods:
            steps += self._align(method)
        steps += [self._answers(name) for name in run.answering]
        if run.settings.steering_prompts:
            steps += [self._sweep(name) for name in run.steered]
        return steps + (self._attribute_model() if run.settings.attribute_model else [])

    def _round(self, model: str, sampled: Mapping[str, Any], depends: Sequence[str]) -> list[Step]:
        """Sample candidates of a model and judge them.

        Args:
            model: the base, or a method's.
            sampled: what `sample` is told of it and its layout.
        """
        suffix = "" if model == "base" else f"_{model}"
        drawn = {"seed": self.seed, **self.run.settings.sampling.values(later=model != "base")}
        return self.commands.judged_round(
            (f"{self.tag}_sample{suffix}", f"{self.tag}_label{suffix}"),
            {**sampled, **drawn},
            self.folder / f"candidates{suffix}.jsonl",
            self.run.annotations(self.seed, model),
            depends,
        )

    def _align(self, method: str) -> list[Step]:
        """Train a method; one that starts from another's model learns of that model's answers to what it was asked for."""
        run, tag, recipe = self.run, self.tag, find_recipe(method)
        rule, before = recipe.build_method, recipe.after
        alike = [other for other in run.settings.methods if find_recipe(other).build_method == rule]
        data = self.folder / (f"{rule}.jsonl" if method == alike[0] else f"{rule}_{method}.jsonl")
        steps, judged, started, start = [], f"{tag}_label", "base", run.base
        if before is not None:
            judged, started, start = f"{tag}_label_{before}", f"{tag}_merge_{before}", self.folder / f"{before}_merged"
            if before not in self._rounds:  # else another method goes on from that model, on these answers, too
                self._rounds.add(before)
                asked = {**self._model(before), "draw_from": str(run.annotations(self.seed, "base"))}
                steps = self._round(before, asked, [f"{tag}_{before}", f"{tag}_label", "world"])
                steps.append(self.commands.export(started, self.folder / before, start, [f"{tag}_{before}"]))
        values = {
            **self._wiring(method).values("build"),
            "annotations": str(run.annotations(self.seed, before or "base")),
            **({"method.seed": self.seed} if rule in RANDOM_METHODS else {}),
        }
        words = run.settings.build.get(method, [])
        return [
            *steps,
            self.commands.step(f"{tag}_build_{method}", "build", values, data, [judged], words),
            self.trained(method, start, data, [f"{tag}_build_{method}", started]),
        ]

    def trained(self, method: str, start: Path, data: Path, depends: Sequence[str]) -> Step:
        """Train a method from a Hugging Face folder."""
        settings, run = self.run.settings, self.folder / method
        values = {
            "model.hf_path": str(start),
            "model.tensor_model_parallel_size": settings.tensor_size_of(method),
            "data.train": str(data),
            "seed": self.seed,
        }
        words = [*settings.train["all"], *settings.train.get(method, [])]
        return self.commands.training(f"{self.tag}_{method}", method, run, values, depends, words)

    def _wiring(self, method: str) -> Wiring:
        start = self.commands.start(self.run.base)
        return Wiring(find_recipe(method), start, self.folder / method, self.commands.layout)

    @property
    def _base(self) -> dict[str, Any]:
        """What stages that compute with the base are told of it."""
        return {**self.commands.start(self.run.base), **self.commands.layout}

    def _model(self, name: str) -> dict[str, Any]:
        """Likewise of the base or a method's model."""
        return self._base if name == "base" else self._wiring(name).values("generate")

    def _answers(self, name: str) -> Step:
        run, (method, variant) = self.run, variant_of(name)
        brief = [f"attributes.{attribute}={value:g}" for attribute, value in (run.settings.brief or {}).items()]
        asked = {"": ["ask_defaults=true"], UNASKED: [], BRIEF: brief}[variant] if method in run.steered else []
        return self.commands.answers(
            f"{self.tag}_answers_{name}",
            self._model(method),
            run.evaluation_prompts,
            run.answers(self.seed, name),
            [f"{self.tag}_{method}", "base", "world"],
            asked,
        )

    def _sweep(self, method: str) -> Step:
        return self.commands.answers(
            f"{self.tag}_steering_{method}",
            self._model(method),
            self.run.steering_prompts,
            self.run.answers(self.seed, f"{method}_steering"),
            [f"{self.tag}_{method}", "world"],
            ["sweep=all"],
        )

    def _attribute_model(self) -> list[Step]:
        return AttributeModelSteps(self.run, self.seed, self.commands, JUDGE, self.trained).steps()
