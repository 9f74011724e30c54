"""What can be set for a run of the miniature; the comments in ``conf/miniature.yaml`` say what each means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, field_validator, model_validator

from nemo_mm_align.core.configuration import Count, Natural, Positive, StrictModel, read
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.miniature.world import WorldSettings
from nemo_mm_align.model.config import LlavaConfig
from nemo_mm_align.objectives.objective import Objective
from nemo_mm_align.recipes.registry import all_recipes
from nemo_mm_align.schema.attributes import AttributeSchema

ANSWERS = "answers"
"""In `MiniatureSettings.tensor_parallel`: all sampling, answering and rating."""


class SamplingShape(StrictModel):
    """How answers are drawn: candidates of the base and of a method's model, and the answers that are evaluated."""

    num_samples: Annotated[int, Field(ge=2, le=1024)]
    temperature: Positive
    later_temperature: Positive
    max_new_tokens: Count

    def values(self, later: bool = False) -> dict[str, Any]:
        """What ``scripts/sample.py`` is told; `later`: of a method's model, whose answers are more alike than the base's."""
        temperature = self.later_temperature if later else self.temperature
        return {
            "num_samples": self.num_samples,
            "temperature": temperature,
            "max_new_tokens": self.max_new_tokens,
        }


class SightSettings(StrictModel):
    """How long and how fast the tower of a new base learns to see."""

    steps: Count
    batch_size: Count
    lr: Positive


class MiniatureSettings(StrictModel):
    """A whole run: world, base, alignment with every method, evaluation, over one or several seeds."""

    out: Path
    seeds: Annotated[int, Field(ge=1, le=1000)]
    first_seed: Natural
    processes: Count
    tensor_model_parallel_size: Count
    tensor_parallel: tuple[str, ...]
    base: Literal["shipped", "train"]
    world: WorldSettings
    sampling: SamplingShape
    steering_prompts: Natural
    brief: dict[str, float] | None
    build: dict[str, list[str]]
    train: dict[str, list[str]]
    sight: SightSettings
    base_stages: dict[str, list[str]]
    methods: tuple[str, ...]
    attribute_model: StrictBool
    evaluate_on: Literal["heldout", "dev"] = "heldout"
    attribute_schema: AttributeSchema
    template: dict[str, Any]
    model: dict[str, Any]

    @field_validator("methods")
    @classmethod
    def _are_recipes(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        known = all_recipes()
        unknown = [method for method in methods if method not in known]
        if unknown:
            raise ValueError(f"no recipe is called {unknown[0]!r}: choose from {', '.join(known)}")
        for place, spec in enumerate(map(known.__getitem__, methods)):
            if spec.after is not None and spec.after not in methods[:place]:
                raise ValueError(f"{spec.name} starts from the model of {spec.after}; name that before it")
            if spec.conf != CONF:
                raise ValueError(f"{spec.name} comes from another package; the miniature trains what conf/recipe holds")
            if spec.objective.head is not Objective.head:
                raise ValueError(
                    f"{spec.name} makes a model that rates answers; the miniature asks its models for some"
                )
        return methods

    @field_validator("tensor_parallel")
    @classmethod
    def _are_parts(cls, parts: tuple[str, ...]) -> tuple[str, ...]:
        known = [*all_recipes(), ANSWERS]
        unknown = [part for part in parts if part not in known]
        if unknown:
            raise ValueError(f"there is no part {unknown[0]!r}: choose from {', '.join(known)}")
        return parts

    def tensor_size_of(self, part: str) -> int:
        """Tensor-parallel size of a training, by its recipe, or of `ANSWERS`."""
        return self.tensor_model_parallel_size if part in self.tensor_parallel else 1

    @model_validator(mode="after")
    def _brief_can_be_asked(self) -> MiniatureSettings:
        self.attribute_schema.check_some(self.brief or {})
        return self

    @field_validator("model")
    @classmethod
    def _are_sizes(cls, model: dict[str, Any]) -> dict[str, Any]:
        read(LlavaConfig, model, "model")
        return model  # as written: a stage's identity is made of it
