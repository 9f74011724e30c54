"""Typed settings of a training run, read from the composed configuration before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.core.configuration import read, read_known
from nemo_mm_align.datasets.plan import PlanSettings
from nemo_mm_align.datasets.sources import SourceSettings
from nemo_mm_align.model.config import EngineConfig, LlavaConfig, ParallelConfig
from nemo_mm_align.model.settings import ModelSettings, read_engine, read_model
from nemo_mm_align.objectives.objective import Objective
from nemo_mm_align.parallel.checkpoint_settings import CheckpointSettings
from nemo_mm_align.recipes.registry import find_recipe, read_recipe
from nemo_mm_align.recipes.spec import RecipeSpec
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.training.sections import (
    DataSettings,
    FaultSettings,
    HealthSettings,
    ManagerSettings,
    TopLevel,
    TrainerSettings,
)
from nemo_mm_align.training.watch_settings import GuardSettings, ValidationSettings


@dataclass(frozen=True)
class TrainSettings:
    """Everything a run needs, validated: the sections, and what is made of them.

    `sizes` are those of the group ``model``, None where the model's folder alone is given; the folder's count in any case.
    """

    seed: int
    trainer: TrainerSettings
    manager: ManagerSettings
    data: DataSettings
    recipe: Objective
    model: ModelSettings
    checkpoint: CheckpointSettings
    faults: FaultSettings
    health: HealthSettings
    validation: ValidationSettings
    guards: GuardSettings
    sizes: LlavaConfig | None
    engine: EngineConfig
    parallel: ParallelConfig
    source: SourceSettings
    plan: PlanSettings
    template: ChatTemplate
    schema: AttributeSchema

    @property
    def spec(self) -> RecipeSpec:
        """What the recipe is beside its settings."""
        return find_recipe(self.recipe.name)


def read_settings(config: DictConfig) -> TrainSettings:
    """Turn the composed configuration into settings.

    Raises:
        UserError: an unknown key or a value out of range, named with its place.
    """
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    return read_values(values)


def read_values(values: Mapping[str, Any]) -> TrainSettings:
    """The same of plain values; those that are mandatory and were not given (``???``) are taken as they are."""
    whole = read(TopLevel, values)
    model, recipe, data = read_model(whole.model), read_recipe(whole.recipe), whole.data
    schema = read(AttributeSchema, whole.attribute_schema, "attribute_schema")
    return TrainSettings(
        seed=whole.seed,
        trainer=read_known(TrainerSettings, whole.trainer, "trainer"),
        manager=read_known(ManagerSettings, whole.exp_manager, "exp_manager"),
        data=data,
        recipe=recipe.with_schema(schema),
        model=model.settings,
        checkpoint=whole.checkpoint,
        faults=whole.faults,
        health=whole.health,
        validation=whole.validation,
        guards=whole.guards,
        sizes=model.sizes,
        engine=read_engine(values),
        parallel=model.parallel,
        source=data.source(),
        plan=data.plan(model.settings.max_length),
        template=ChatTemplate.from_config(whole.template),
        schema=schema,
    )
