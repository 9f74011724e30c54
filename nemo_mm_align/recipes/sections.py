"""Sections of conf/train.yaml as typed objects: which keys there are, and of which types, stands here alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from nemo_mm_align.datasets.plan import PlanSettings
from nemo_mm_align.datasets.sources import SourceSettings
from nemo_mm_align.errors import UserError
from nemo_mm_align.model.config import LoRAConfig
from nemo_mm_align.parallel.optim_config import OptimConfig
from nemo_mm_align.recipes.methods import IMITATION, Method, build_method


@dataclass(frozen=True)
class DataSettings:
    """Where samples come from, how strictly they are read, and in which order; see `SourceSettings`, `PlanSettings`."""

    train: str
    format: str = "auto"
    split: str = "train"
    image_root: str | None = None
    on_fault: Literal["error", "drop"] = "error"
    on_too_long: Literal["error", "drop"] = "error"
    fault_report: str | None = None
    ignore_labels: list[str] = field(default_factory=list)
    add_image_placeholders: bool = False
    shuffle: bool = True
    num_workers: int | None = None
    reference_cache: str | None = None

    def source(self) -> SourceSettings:
        """What is read; a value out of range raises pydantic's `ValidationError`."""
        return SourceSettings(
            path=self.train,
            format=self.format,
            image_root=self.image_root,
            split=self.split,
            on_fault=self.on_fault,
            fault_report=self.fault_report,
            ignore_labels=tuple(self.ignore_labels),
            add_image_placeholders=self.add_image_placeholders,
        )

    def plan(self, max_length: int) -> PlanSettings:
        """What of it is trained on."""
        return PlanSettings(max_length=max_length, on_too_long=self.on_too_long, on_fault=self.on_fault)


@dataclass(frozen=True)
class ImitationRecipe:
    """Training on given answers."""

    name: str
    epochs: float

    def method(self) -> Method:
        """The training method of this name."""
        return build_method(self.name)


@dataclass(frozen=True)
class PreferenceRecipe:
    """Training on pairs.

    Args:
        shared_prefix: chosen and rejected lie in one row behind their common prompt.
        use_stored_reference: take the records' own reference log-probs instead of computing them.
    """

    name: str
    epochs: float
    beta: float = 0.1
    sft_loss_weight: float = 0.0
    shared_prefix: bool = False
    use_stored_reference: bool = False

    def method(self) -> Method:
        """The training method of this name."""
        return build_method(self.name, self.beta, self.sft_loss_weight)


Recipe = ImitationRecipe | PreferenceRecipe

RECIPES: dict[str, type[Recipe]] = {**dict.fromkeys(IMITATION, ImitationRecipe), "dpo": PreferenceRecipe}
"""What stands in section ``recipe``, by its name."""


@dataclass(frozen=True)
class TrainableParts:
    """Which parts full fine-tuning changes; with LoRA only `projector` and `vision` are asked."""

    language: bool = True
    projector: bool = True
    vision: bool = False


@dataclass(frozen=True)
class ModelSettings:
    """What stands in section ``model`` beside the model's sizes (`LlavaConfig`) and its layout (`ParallelConfig`).

    Args:
        reference_micro_batch_size: samples per pass of the reference, None as many as training's memory has room for.
    """

    micro_batch_size: int
    global_batch_size: int
    max_length: int
    reference_micro_batch_size: int | None = None
    hf_path: str | None = None
    checkpoint: str | None = None
    transformer_impl: str = "auto"
    recompute: str = "none"
    lora: LoRAConfig | None = None
    train: TrainableParts = field(default_factory=TrainableParts)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        if self.reference_micro_batch_size is not None and self.reference_micro_batch_size < 1:
            raise UserError(
                f"model.reference_micro_batch_size={self.reference_micro_batch_size}: must be at least 1, or null."
            )


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
class TopLevel:
    """The whole file. ``Any``: checked by those who read it (Lightning's arguments, NeMo's, pydantic's, `EngineConfig`)."""

    name: Any
    seed: int
    precision: Any
    trainer: Any
    exp_manager: Any
    checkpoint: CheckpointSettings
    faults: FaultSettings
    data: DataSettings
    recipe: Any  # one of RECIPES
    model: Any  # ModelSettings with LlavaConfig and ParallelConfig in one section
    attribute_schema: Any
    template: Any
