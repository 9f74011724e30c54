"""The steps of a run that are commands of the project, as a user gives them on own data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_mm_align.core.run_files import METRICS_FILE, read_facts, read_metrics
from nemo_mm_align.miniature.folders import MiniatureRun
from nemo_mm_align.miniature.settings import ANSWERS
from nemo_mm_align.miniature.steps import Step, command_of

JUDGE = {"judge": "oracle", "runner.concurrency": 1, "fsync_every": 1000}
TEMPLATE = {"template": "vicuna_v1", "template.system": ""}
"""Chat template of the base, which a Hugging Face folder does not name."""


class Commands:
    """Makes steps of a run's settings.

    Args:
        run: whose.
    """

    def __init__(self, run: MiniatureRun) -> None:
        self.run = run

    def start(self, model: Path) -> dict[str, Any]:
        """Return how the stages that compute with a model are told of it; a folder without a template is told that as well."""
        bare = model == self.run.base or (model / "config.json").is_file()
        return {"checkpoint": str(model), **(TEMPLATE if bare else {})}

    @property
    def launched(self) -> int | None:
        """Processes of a stage with ranks; None for one, which needs no launcher."""
        return self.run.settings.processes if self.run.settings.processes > 1 else None

    @property
    def layout(self) -> dict[str, Any]:
        """The layout of the stages that sample and generate."""
        return {"tensor_model_parallel_size": self.run.settings.tensor_size_of(ANSWERS)}

    def step(
        self,
        name: str,
        stage: str,
        values: Mapping[str, Any],
        out: Path,
        depends: Sequence[str],
        words: Sequence[str] = (),
    ) -> Step:
        """A stage that writes `out`; `words` are further overrides."""
        command = command_of(stage, {**values, "out": str(out)}, self.launched, words)
        return Step(name, command, [out], depends)

    def judged_round(
        self,
        names: tuple[str, str],
        sampled: Mapping[str, Any],
        candidates: Path,
        annotations: Path,
        depends: Sequence[str],
    ) -> list[Step]:
        """Sample a model's answers to the training prompts and judge them.

        Args:
            names: of the two steps.
            sampled: what `sample` is told of the model, its layout and how it draws.
            candidates, annotations: the files that are written.
        """
        prompts = {"prompts": str(self.run.training_prompts)}
        judged = {**prompts, "candidates": str(candidates), **JUDGE}
        return [
            self.step(names[0], "sample", {**sampled, **prompts}, candidates, depends),
            self.step(names[1], "label", judged, annotations, [names[0]]),
        ]

    def training(
        self, name: str, recipe: str, run: Path, values: Mapping[str, Any], depends: Sequence[str], words: Sequence[str]
    ) -> Step:
        """A training in fp32 whose run folder is `run`."""
        command = command_of(
            "train",
            {
                "recipe": recipe,
                "model": "mini",
                **values,
                "exp_manager.exp_dir": str(run.parent),
                "name": run.name,
                **TEMPLATE,
                "precision": "fp32",
            },
            self.launched,
            words,
        )
        return Step(name, command, [run], depends, progress=steps_done(run))

    def export(self, name: str, checkpoint: Path, out: Path, depends: Sequence[str]) -> Step:
        """A checkpoint as a Hugging Face folder, adapters merged."""
        return self.step(name, "convert", {"direction": "export", "source": str(checkpoint)}, out, depends)

    def answers(
        self,
        name: str,
        model: Mapping[str, Any],
        prompts: Path,
        out: Path,
        depends: Sequence[str],
        words: Sequence[str] = (),
    ) -> Step:
        """Answers to prompts.

        Args:
            model: what `generate` is told of the model and its layout.
            words: what it is asked for.
        """
        asked = {"prompts": str(prompts), "max_new_tokens": self.run.settings.sampling.max_new_tokens}
        return self.step(name, "generate", {**model, **asked}, out, depends, words)


def steps_done(run: Path) -> Callable[[], float]:
    """Return how far a training is, by its metrics file, when called."""

    def fraction() -> float:
        facts = read_facts(run)
        return len(read_metrics(run / METRICS_FILE)) / facts["total_steps"] if facts else 0.0

    return fraction
