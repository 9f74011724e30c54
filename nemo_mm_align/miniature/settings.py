"""What can be set for a run of the miniature; the comments in ``conf/miniature.yaml`` say what each means."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.configuration import StrictModel, read
from nemo_mm_align.miniature.world import WorldSettings
from nemo_mm_align.model.config import LlavaConfig
from nemo_mm_align.recipes.registry import all_recipes


class SamplingShape(StrictModel):
    """How answers are drawn: candidates from the base, and the answers that are evaluated."""

    num_samples: int = Field(ge=2)
    temperature: float = Field(gt=0)
    max_new_tokens: int = Field(gt=0)


class MiniatureSettings(StrictModel):
    """A whole run: world, base, alignment with every method, evaluation, over one or several seeds."""

    out: Path
    seeds: int = Field(ge=1)
    first_seed: int = Field(ge=0)
    processes: int = Field(ge=1)
    tensor_model_parallel_size: int = Field(ge=1)
    base: Literal["shipped", "train"]
    world: WorldSettings
    sampling: SamplingShape
    steering_prompts: int = Field(ge=0)
    build: dict[str, list[str]]
    train: dict[str, list[str]]
    base_stages: dict[str, list[str]]
    methods: tuple[str, ...]
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
        return methods

    @field_validator("model")
    @classmethod
    def _are_sizes(cls, model: dict[str, Any]) -> dict[str, Any]:
        read(LlavaConfig, model, "model")
        return model  # as written: a stage's identity is made of it
