"""Typed settings of a training run, read from the composed configuration before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.chat_template import ChatTemplate
from nemo_mm_align.datasets.plan import PlanSettings
from nemo_mm_align.datasets.sources import SourceSettings
from nemo_mm_align.model.config import EngineConfig, LlavaConfig, ParallelConfig
from nemo_mm_align.model.settings import chosen_sizes, read_engine, read_parallel
from nemo_mm_align.recipes.known_settings import check_settings, read_recipe, read_section
from nemo_mm_align.recipes.methods import Method
from nemo_mm_align.recipes.sections import (
    CheckpointSettings,
    DataSettings,
    FaultSettings,
    ModelSettings,
    PreferenceRecipe,
    Recipe,
)


@dataclass(frozen=True)
class TrainSettings:
    """Everything a run needs, validated: the sections, and what is made of them.

    `sizes` are those of the group ``model``, None where the model's folder alone is given; the folder's count in any case.
    """

    seed: int
    data: DataSettings
    recipe: Recipe
    model: ModelSettings
    checkpoint: CheckpointSettings
    faults: FaultSettings
    sizes: LlavaConfig | None
    engine: EngineConfig
    parallel: ParallelConfig
    method: Method
    source: SourceSettings
    plan: PlanSettings
    template: ChatTemplate
    schema: AttributeSchema

    @property
    def shared_prefix(self) -> bool:
        """Whether the sequences of a sample lie in one row."""
        return isinstance(self.recipe, PreferenceRecipe) and self.recipe.shared_prefix

    @property
    def use_stored_reference(self) -> bool:
        """Whether reference log-probs are the records' own."""
        return isinstance(self.recipe, PreferenceRecipe) and self.recipe.use_stored_reference


def read_settings(config: DictConfig) -> TrainSettings:
    """Turn the composed configuration into settings.

    Raises:
        UserError: an unknown key or a value out of range, named with its place.
    """
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    check_settings(values)
    model = read_section(ModelSettings, values["model"], "model")
    data, recipe = read_section(DataSettings, values["data"], "data"), read_recipe(values["recipe"])
    return TrainSettings(
        seed=values["seed"],
        data=data,
        recipe=recipe,
        model=model,
        checkpoint=read_section(CheckpointSettings, values["checkpoint"], "checkpoint"),
        faults=read_section(FaultSettings, values["faults"], "faults"),
        sizes=chosen_sizes(values["model"]),
        engine=read_engine(values),
        parallel=read_parallel(values["model"]),
        method=recipe.method(),
        source=data.source(),
        plan=data.plan(model.max_length),
        template=ChatTemplate.from_config(values["template"]),
        schema=AttributeSchema.model_validate(values["attribute_schema"]),
    )
