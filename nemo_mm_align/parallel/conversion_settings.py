"""conf/convert.yaml as a typed object."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from nemo_mm_align.core.configuration import Count, Positive, Seed, StrictModel, read
from nemo_mm_align.model.config import LlavaConfig, ParallelConfig
from nemo_mm_align.model.generation_defaults import GenerationDefaults
from nemo_mm_align.model.settings import layout_of
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate


class CardSettings(StrictModel):
    """What a model card says that no checkpoint knows; None and [] are written as not recorded.

    Args:
        base_model: hub name of the model that training began with.
        license: of the base, which the export carries on, in the hub's words.
        data: names of what was trained on.
        judge: who rated it.
    """

    base_model: str | None = None
    license: str | None = None
    data: tuple[str, ...] = ()
    judge: str | None = None


class ConvertSettings(StrictModel):
    """Settings of the conversion; the comments of conf/convert.yaml say what each means.

    Args:
        model: sizes of the group that a composed model's tower is drawn by, if one was chosen.
    """

    direction: Literal["import", "export", "compose"]
    source: str
    out: Path
    vision: str | None = None
    base: str | None = None
    adapters: Literal["merged", "apart", "served"] = "merged"
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    max_shard_gb: Positive = 5
    generation: GenerationDefaults = GenerationDefaults()
    card: CardSettings = CardSettings()
    results: Path | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: Seed = 1234
    tensor_model_parallel_size: Count = 1
    pipeline_model_parallel_size: Count = 1
    num_layers_in_first_pipeline_stage: Count | None = None
    num_layers_in_last_pipeline_stage: Count | None = None
    model: LlavaConfig | None = None
    template: dict[str, Any] | None = None
    attribute_schema: dict[str, Any] | None = None

    @property
    def parallel(self) -> ParallelConfig:
        """The layout."""
        return layout_of(self)

    @property
    def chosen_template(self) -> ChatTemplate | None:
        """The template that was chosen, if one was."""
        return ChatTemplate.from_config(self.template) if self.template else None

    @property
    def chosen_schema(self) -> AttributeSchema | None:
        """The attribute schema that was chosen, if one was."""
        return read(AttributeSchema, self.attribute_schema, "attribute_schema") if self.attribute_schema else None
