"""The attribute model of a run: trained on the base's judged answers, measured on held-out ones.

Beside it stand a ridge regression on the base's frozen features and the same model shown other prompts' images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_mm_align.miniature.stages import Stage, python_command, torchrun_command
from nemo_mm_align.repository import SCRIPTS

NAME = "attribute_model"


@dataclass(frozen=True)
class RatedRun:
    """Where things lie, and what every command of the run is told.

    Args:
        folder: of the seed.
        seed: its number.
        base: as a Hugging Face folder.
        template: arguments that name its chat template.
        prompts: the held-out ones.
        processes, layout: number of processes, and how they are laid out.
        sampling: how held-out candidates are drawn.
        build: further words of the training set's build.
        train: makes the stage of a training, of seed, recipe, base, training set and the stages before it.
    """

    folder: Path
    seed: int
    base: Path
    template: Sequence[str]
    prompts: Path
    processes: int
    tensor_model_parallel_size: int
    sampling: Sequence[str]
    build: Sequence[str]
    train: Callable[[int, str, Path, Path, list[str]], Stage]

    @property
    def report(self) -> Path:
        """The page on how good it is; its numbers lie beside it."""
        return self.folder / f"{NAME}.html"

    def stages(self) -> list[Stage]:
        """All of it, from held-out candidates to the report."""
        tag, folder = f"seed{self.seed}", self.folder
        candidates, judged = folder / "candidates_heldout.jsonl", folder / "annotations_heldout.jsonl"
        rated = {name: folder / f"rated{suffix}.jsonl" for name, suffix in (("train", ""), ("heldout", "_heldout"))}
        probe, told = folder / "probe.jsonl", {kind: folder / f"told{kind}.jsonl" for kind in ("", "_shuffled")}
        asked = (f"prompts={self.prompts}", f"candidates={candidates}")
        label = ("judge=oracle", *asked, "runner.concurrency=1", "fsync_every=1000")
        files = [f"{name}={path}" for name, path in rated.items()]
        compared = (f"judged={judged}", f"predicted={told['']}", f"shuffled={told['_shuffled']}", f"probe={probe}")
        return [
            self._ranked(
                f"{tag}_sample_heldout",
                "sample.py",
                [f"checkpoint={self.base}", *self.template, asked[0], f"seed={self.seed}", *self.sampling],
                candidates,
                ["base", "world"],
            ),
            self._single(f"{tag}_label_heldout", "label.py", label, judged, [f"{tag}_sample_heldout"]),
            *(
                self._single(
                    f"{tag}_build_rated_{name}",
                    "build.py",
                    (f"method={NAME}", f"annotations={source}", "method.holdout=0", *words),
                    rated[name],
                    [f"{tag}_{after}"],
                )
                for name, source, after, words in (
                    ("train", folder / "annotations.jsonl", "label", self.build),
                    ("heldout", judged, "label_heldout", ()),
                )
            ),
            self.train(self.seed, NAME, self.base, rated["train"], [f"{tag}_build_rated_train"]),
            *(
                self._ranked(
                    f"{tag}_told{kind}",
                    "annotate.py",
                    [f"checkpoint={folder / NAME}", *asked, "values=real", *(["shuffle_images=true"] if kind else [])],
                    path,
                    [f"{tag}_{NAME}", f"{tag}_sample_heldout"],
                )
                for kind, path in told.items()
            ),
            self._ranked(
                f"{tag}_probe",
                "probe.py",
                [f"checkpoint={self.base}", *self.template, *files],
                probe,
                [f"{tag}_build_rated_train", f"{tag}_build_rated_heldout"],
            ),
            self._single(
                f"{tag}_attribute_report",
                "attribute_report.py",
                compared,
                self.report,
                [f"{tag}_told", f"{tag}_told_shuffled", f"{tag}_probe", f"{tag}_label_heldout"],
            ),
        ]

    def _ranked(self, name: str, script: str, words: Sequence[str], out: Path, depends: Sequence[str]) -> Stage:
        layout = f"tensor_model_parallel_size={self.tensor_model_parallel_size}"
        command = torchrun_command(self.processes, SCRIPTS / script, *words, f"out={out}", layout)
        return Stage(name, command, [out], depends)

    def _single(self, name: str, script: str, words: Sequence[str], out: Path, depends: Sequence[str]) -> Stage:
        return Stage(name, python_command(SCRIPTS / script, *words, f"out={out}"), [out], depends)
