"""What can be set for a run of the miniature; the comments in ``conf/miniature.yaml`` say what each means."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.miniature.world import WorldSettings

Method = Literal["sft", "rejection", "steerlm", "dpo"]


class SamplingShape(BaseModel):
    """How answers are drawn: candidates from the base, and the answers that are evaluated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_samples: int = Field(ge=2)
    temperature: float = Field(gt=0)
    max_new_tokens: int = Field(gt=0)


class MiniatureSettings(BaseModel):
    """A whole run: world, base, alignment with every method, evaluation, over one or several seeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    methods: tuple[Method, ...]
    evaluate_on: Literal["heldout", "dev"] = "heldout"
    attribute_schema: AttributeSchema
    template: dict[str, Any]
    model: dict[str, Any]
