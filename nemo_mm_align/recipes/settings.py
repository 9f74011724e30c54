"""Typed settings of a training run, read from the composed configuration before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.chat_template import ChatTemplate
from nemo_mm_align.datasets.plan import PlanSettings
from nemo_mm_align.datasets.sources import SourceSettings
from nemo_mm_align.errors import UserError
from nemo_mm_align.model.config import EngineConfig, LlavaConfig, LoRAConfig, ParallelConfig
from nemo_mm_align.model.settings import read_engine, read_lora, read_parallel, read_sizes
from nemo_mm_align.parallel.optimizer import OptimConfig
from nemo_mm_align.recipes.known_settings import check_settings
from nemo_mm_align.recipes.methods import Method, build_method


@dataclass(frozen=True)
class TrainableParts:
    """Which parts full fine-tuning changes; with LoRA only `projector` and `vision` are asked."""

    language: bool = True
    projector: bool = True
    vision: bool = False


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written and whether a run goes on from its newest one."""

    every_n_steps: int = 100
    keep: int = 2
    resume: bool = True
    asynchronous: bool = True

    def __post_init__(self) -> None:
        if self.every_n_steps < 0 or self.keep < 1:
            raise UserError("checkpoint.every_n_steps must be at least 0 and checkpoint.keep at least 1.")


@dataclass(frozen=True)
class FaultSettings:
    """What ends a run that no longer moves, and who is named; 0 switches a report off."""

    distributed_timeout_s: float = 1800.0
    hang_timeout_s: float = 900.0
    straggler_every_n_steps: int = 100
    straggler_ratio: float = 2.0

    def __post_init__(self) -> None:
        if self.distributed_timeout_s <= 0 or self.hang_timeout_s < 0 or self.straggler_every_n_steps < 0:
            raise UserError("faults: distributed_timeout_s must be above 0, the others at least 0.")
        if self.straggler_ratio <= 1:
            raise UserError(f"faults.straggler_ratio={self.straggler_ratio}: must be above 1, the median's multiple.")


@dataclass(frozen=True)
class TrainSettings:
    """Everything a run needs, validated."""

    seed: int
    sizes: LlavaConfig
    engine: EngineConfig
    parallel: ParallelConfig
    lora: LoRAConfig | None
    trainable: TrainableParts
    optim: OptimConfig
    method: Method
    recipe: dict[str, Any]
    source: SourceSettings
    plan: PlanSettings
    template: ChatTemplate
    schema: AttributeSchema
    checkpoint: CheckpointSettings
    faults: FaultSettings
    micro_batch_size: int
    global_batch_size: int
    shuffle: bool
    shared_prefix: bool
    reference_cache: Path | None


_SECTIONS = {
    "model.train": TrainableParts,
    "model.optim": OptimConfig,
    "checkpoint": CheckpointSettings,
    "faults": FaultSettings,
}


def _build(kind: type, values: Mapping[str, Any] | None, where: str) -> Any:
    try:
        return kind(**dict(values or {}))
    except TypeError as error:
        raise UserError(f"{where}: {error}") from None


def read_settings(config: DictConfig) -> TrainSettings:
    """Turn the composed configuration into settings.

    Raises:
        UserError: an unknown key or a value out of range, named with its place.
    """
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    check_settings(values, _SECTIONS)
    model, data, recipe = values["model"], values["data"], dict(values["recipe"])
    cache = data.get("reference_cache")
    return TrainSettings(
        seed=values["seed"],
        sizes=read_sizes(model),
        engine=read_engine(values),
        parallel=read_parallel(model),
        lora=read_lora(model),
        trainable=_build(TrainableParts, model["train"], "model.train"),
        optim=_build(OptimConfig, model["optim"], "model.optim"),
        method=build_method(recipe["name"], recipe.get("beta", 0.1), recipe.get("sft_loss_weight", 0.0)),
        recipe=recipe,
        source=SourceSettings(
            path=data["train"],
            format=data["format"],
            image_root=data["image_root"],
            split=data["split"],
            on_fault=data["on_fault"],
            fault_report=data["fault_report"],
            ignore_labels=tuple(data["ignore_labels"]),
        ),
        plan=PlanSettings(max_length=model["max_length"], on_too_long=data["on_too_long"], on_fault=data["on_fault"]),
        template=ChatTemplate.from_config(values["template"]),
        schema=AttributeSchema.model_validate(values["attribute_schema"]),
        checkpoint=_build(CheckpointSettings, values["checkpoint"], "checkpoint"),
        faults=_build(FaultSettings, values["faults"], "faults"),
        micro_batch_size=model["micro_batch_size"],
        global_batch_size=model["global_batch_size"],
        shuffle=data["shuffle"],
        shared_prefix=bool(recipe.get("shared_prefix", False)),
        reference_cache=Path(cache) if cache else None,
    )
