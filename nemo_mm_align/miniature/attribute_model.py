"""The attribute model of a seed: trained on the base's judged answers, measured on held-out ones.

Beside it stand a ridge regression on the base's frozen features and the same model shown other prompts' images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_mm_align.miniature.commands import Commands
from nemo_mm_align.miniature.folders import MiniatureRun
from nemo_mm_align.miniature.steps import Step

NAME = "attribute_model"


@dataclass(frozen=True)
class AttributeModelSteps:
    """Makes its steps.

    Args:
        run: the whole.
        seed: which.
        commands: makes steps.
        judge: what `label` is told.
        train: makes the step of a training, of recipe, base, training set and the steps before it.
    """

    run: MiniatureRun
    seed: int
    commands: Commands
    judge: Mapping[str, Any]
    train: Callable[[str, Path, Path, Sequence[str]], Step]

    def steps(self) -> list[Step]:
        """All of them, from held-out candidates to the report."""
        run, step, tag, folder = self.run, self.commands.step, f"seed{self.seed}", self.run.seed_folder(self.seed)
        base, layout = self.commands.start(run.base), self.commands.layout
        candidates, judged = folder / "candidates_heldout.jsonl", folder / "annotations_heldout.jsonl"
        train, heldout = folder / "rated.jsonl", folder / "rated_heldout.jsonl"
        told, shuffled, probe = folder / "told.jsonl", folder / "told_shuffled.jsonl", folder / "probe.jsonl"
        prompts = {"prompts": str(run.evaluation_prompts)}
        answered = {**prompts, "candidates": str(candidates)}
        drawn = {**base, **prompts, "seed": self.seed, **run.settings.sampling.values(), **layout}
        model = {"checkpoint": str(folder / NAME), **answered, "values": "real", **layout}
        after_model = [f"{tag}_{NAME}", f"{tag}_sample_heldout"]
        compared = {"judged": judged, "predicted": told, "shuffled": shuffled, "probe": probe}
        return [
            step(f"{tag}_sample_heldout", "sample", drawn, candidates, ["base", "world"]),
            step(f"{tag}_label_heldout", "label", {**answered, **self.judge}, judged, [f"{tag}_sample_heldout"]),
            self._built("train", run.annotations(self.seed, "base"), train, f"{tag}_label"),
            self._built("heldout", judged, heldout, f"{tag}_label_heldout"),
            self.train(NAME, run.base, train, [f"{tag}_build_rated_train"]),
            step(f"{tag}_told", "annotate", model, told, after_model),
            step(f"{tag}_told_shuffled", "annotate", {**model, "shuffle_images": True}, shuffled, after_model),
            step(
                f"{tag}_probe",
                "probe",
                {**base, "train": str(train), "heldout": str(heldout), **layout},
                probe,
                [f"{tag}_build_rated_train", f"{tag}_build_rated_heldout"],
            ),
            step(
                f"{tag}_attribute_report",
                "attribute_report",
                {name: str(path) for name, path in compared.items()},
                run.rating_report(self.seed),
                [f"{tag}_told", f"{tag}_told_shuffled", f"{tag}_probe", f"{tag}_label_heldout"],
            ),
        ]

    def _built(self, name: str, annotations: Path, out: Path, after: str) -> Step:
        """A set of rated answers; the settings of the build are those of the training set."""
        values = {"method": NAME, "annotations": str(annotations), "method.holdout": 0}
        words = self.run.settings.build.get(NAME, []) if name == "train" else []
        return self.commands.step(f"seed{self.seed}_build_rated_{name}", "build", values, out, [after], words)
