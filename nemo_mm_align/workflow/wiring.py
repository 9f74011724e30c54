"""What a training and the stages around it take from one another, whoever runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_mm_align.recipes.spec import RecipeSpec

DEFAULT_SCHEMA = "helpsteer"
"""Attribute schema of stages that are told of none."""


@dataclass(frozen=True)
class Wiring:
    """One training and its stages.

    Args:
        recipe: of the training.
        start: the model that it starts from, as `sample` and `generate` name it: ``checkpoint`` and, for a Hugging Face
            folder, the template.
        trained: its folder.
        layout: tensor and pipeline parallelism of its model, as `sample` and `generate` name it.
        schema: its attribute schema; None where every stage goes by its own default.
        logs_to_wandb: whether it logs to Weights & Biases, where the tables of its evaluation then go as well.
    """

    recipe: RecipeSpec
    start: Mapping[str, Any]
    trained: Path
    layout: Mapping[str, Any] = field(default_factory=dict)
    schema: str | None = None
    logs_to_wandb: bool = False

    def values(self, stage: str) -> dict[str, Any]:
        """Return the settings of a stage that follow from the training, by dotted key."""
        return self._told_schema(stage) | self._own(stage)

    def _own(self, stage: str) -> dict[str, Any]:
        match stage:
            case "sample":
                return {**self.start, **self.layout}
            case "annotate":
                return dict(self.layout)
            case "generate":
                return {"checkpoint": str(self.trained), **self.layout}
            case "build":
                return {"method": self.recipe.build_method}
            case "evaluate" if self.logs_to_wandb:
                return {"log_to": str(self.trained)}
            case _:
                return {}

    def _told_schema(self, stage: str) -> dict[str, Any]:
        """A method that builds conditioned samples has a default schema of its own; `annotate` takes that of its model."""
        conditioned = stage == "build" and self.recipe.samples.attributed
        if self.schema is not None and stage != "annotate" and (self.schema != DEFAULT_SCHEMA or conditioned):
            return {"attribute_schema": self.schema}
        return {}

    def answers(self, out: Any) -> dict[str, Any]:
        """Return what `evaluate` is told of the trained model's answers."""
        return {"answers": {self.recipe.name: out}}
