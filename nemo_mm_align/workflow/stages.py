"""The stages of the loop in one table: each is a script of its name with a configuration of its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["prompts", "candidates", "annotations", "training set", "model", "answers", "report", "rounds"]
"""What a file or folder that a stage reads or writes is."""


@dataclass(frozen=True)
class Stage:
    """One stage.

    Args:
        name: of its script and its configuration.
        ranked: whether it computes with a model: many ranks, on GPUs where there are any. The others are one process without
            a GPU.
        reads: by keys of its configuration, the files that it is given.
        writes: what it makes.
        out: the key that says where.
        marks_its_end: whether a file ``DONE`` in what it makes says that it has finished; of the others it is exit code 0.
    """

    name: str
    ranked: bool
    reads: Mapping[str, Kind]
    writes: Kind
    out: str = "out"
    marks_its_end: bool = field(default=False)

    @property
    def script(self) -> str:
        """Its script, seen from the repository."""
        return f"scripts/{self.name}.py"


_JUDGED: Mapping[str, Kind] = {"prompts": "prompts", "candidates": "candidates"}

TABLE = (
    Stage("sample", True, {"checkpoint": "model", "prompts": "prompts"}, "candidates"),
    Stage("label", False, _JUDGED, "annotations"),
    Stage("annotate", True, {"checkpoint": "model", **_JUDGED}, "annotations"),
    Stage("build", False, {"annotations": "annotations"}, "training set"),
    Stage(
        "train", True, {"model.hf_path": "model", "data.train": "training set"}, "model", "exp_manager.exp_dir", True
    ),
    Stage("generate", True, {"checkpoint": "model", "prompts": "prompts"}, "answers"),
    Stage("evaluate", False, {"prompts": "prompts", "answers": "answers"}, "report"),
)

REPEATED = ("sample", "label", "annotate", "build", "train")
"""Those that a launch in rounds has in each of them; the others take place once, after all."""

STEPS = (
    Stage("rounds", False, {}, "rounds", "results"),
    Stage("convert", False, {"source": "model"}, "model"),
)
"""What the launcher puts between the stages of rounds; nobody asks for them by ``stages``."""

STAGES: Mapping[str, Stage] = {stage.name: stage for stage in TABLE}
"""By name, in the order of the loop. `label` and `annotate` make the same, by a judge and by an attribute model."""

RUN: Mapping[str, Stage] = {stage.name: stage for stage in (*TABLE, *STEPS)}
"""All that a job can be, by name."""
