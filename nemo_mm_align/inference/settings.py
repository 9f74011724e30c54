"""What the user can set for `sample` and `generate`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from pydantic import Field, StrictBool, field_validator, model_validator

from nemo_mm_align.core.configuration import Count, Natural, NotNegative, Seed, read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.drawn import DrawnAttributes
from nemo_mm_align.inference.model_settings import ModelSettings
from nemo_mm_align.inference.requests import Assignment, sweep_assignments
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.schema.attributes import AttributeSchema

if TYPE_CHECKING:
    from nemo_mm_align.inference.loading import OpenedModel

logger = logging.getLogger(__name__)


def register_open_attributes() -> None:
    """Tell Hydra that ``attributes`` takes new keys without a ``+``: their names are the schema's to check."""
    node = OmegaConf.create({"attributes": OmegaConf.create({}, flags={"struct": False})})
    ConfigStore.instance().store(name="open_attributes", node=node)


class InferenceSettings(ModelSettings):
    """What ``conf/sample.yaml`` and ``conf/generate.yaml`` share; the comments there say what each means."""

    prompts: Path | None = None
    out: Path | None = None
    add_image_placeholders: bool = False
    temperature: NotNegative
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Natural
    max_new_tokens: Count
    num_samples: Count
    seed: Seed
    stop: list[str] = []
    max_batch_tokens: Count = 32768
    cuda_graphs: StrictBool | None = None
    merge_adapters: StrictBool | Literal["auto"] = "auto"
    attribute_schema: AttributeSchema
    attributes: dict[str, Any] = {}
    draw_from: Path | None = None
    ask_defaults: StrictBool = False
    sweep: list[str] | Literal["all"] = []
    question: str | None = None
    image: list[Path] = []
    tasks: dict[str, dict[str, Any] | None] | None = None
    variants: Literal["auto", "asked", "unasked"] = "auto"

    @field_validator("image", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        images = value if isinstance(value, list) else [value]
        if "" in images:
            raise ValueError("holds an empty path; [] is none")
        return images

    @field_validator("tasks", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return {str(name): {} for name in value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _draws_stand_alone(self) -> InferenceSettings:
        if self.draw_from is not None and (self.attributes or self.sweep or self.ask_defaults or self.question):
            raise ValueError("draw_from says what each prompt of a file is asked for; give it without other attributes")
        return self

    @model_validator(mode="after")
    def _graphs_are_of_one_rank(self) -> InferenceSettings:
        if self.cuda_graphs and self.tensor_model_parallel_size * self.pipeline_model_parallel_size > 1:
            raise ValueError("cuda_graphs=true is for a model on one GPU; give null, or both model-parallel sizes 1")
        return self

    @property
    def sampling(self) -> SamplingSettings:
        """How tokens are chosen."""
        names = ("temperature", "top_p", "top_k", "max_new_tokens", "num_samples", "seed")
        return SamplingSettings(**{name: getattr(self, name) for name in names}, stop=tuple(self.stop))

    def assignments(self, schema: AttributeSchema | None) -> Sequence[Assignment]:
        """Attribute values to ask for; raise `UserError` for unknown ones."""
        if self.sweep:
            if schema is None:
                raise UserError("sweep is given, but there is no attribute schema; set attribute_schema.")
            names = [item.name for item in schema.asked] if self.sweep == "all" else self.sweep
            return sweep_assignments(schema, self.attributes, names)
        return [self.attributes if self.asks else None]

    def drawn(self, schema: AttributeSchema | None) -> DrawnAttributes | None:
        """Return the draws of `draw_from`, where that is set; raise `UserError` where nothing can be drawn from it."""
        if self.draw_from is None:
            return None
        if schema is None:
            raise UserError("draw_from is given, but there is no attribute schema; set attribute_schema.")
        return DrawnAttributes(self.draw_from, schema, self.seed)

    @property
    def asks(self) -> bool:
        """Whether answers are asked for attributes."""
        return bool(self.attributes or self.sweep or self.ask_defaults or self.draw_from)

    def open(self) -> OpenedModel:
        """Open the model's folder and check the layout, without reading weights."""
        from nemo_mm_align.inference.loading import open_for_inference  # torch: settings are checked without it

        opened = open_for_inference(
            self.checkpoint, self.parallel, self.precision, self.template, self.attribute_schema
        )
        metadata = opened.source.metadata
        if self.asks and metadata is not None and metadata.attribute_schema is None:
            logger.warning("attributes are asked for, but %s was trained without attributes", self.checkpoint)
        return opened


def settings_from_config(config: Mapping[str, Any]) -> InferenceSettings:
    """Read a resolved Hydra configuration (``conf/sample.yaml`` or ``conf/generate.yaml``)."""
    return read(InferenceSettings, config)
