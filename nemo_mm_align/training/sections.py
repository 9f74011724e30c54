"""Sections of conf/train.yaml as typed objects: which keys there are, and of which types, stands here alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from nemo_mm_align.capacity.job import StartedRanks
from nemo_mm_align.cli.configuration_help import OneOf, Parts
from nemo_mm_align.core.configuration import STRICT, Name, Natural, Seconds, Seed
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.plan import PlanSettings
from nemo_mm_align.datasets.sources import SourceSettings
from nemo_mm_align.model.config import LlavaConfig, ParallelConfig, Precision
from nemo_mm_align.model.settings import ModelSettings
from nemo_mm_align.parallel.checkpoint_settings import CheckpointSettings
from nemo_mm_align.recipes.registry import objectives
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.training.watch_settings import GuardSettings, ValidationSettings


@dataclass(frozen=True)
class DataSettings:
    """Where samples come from, how strictly they are read, and in which order; see `SourceSettings`, `PlanSettings`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

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
    num_workers: Annotated[int, Field(ge=0, le=1024)] | None = None
    reference_cache: str | None = None
    validation: Annotated[float, Field(gt=0, lt=1)] | str | None = None

    @property
    def validation_share(self) -> float | None:
        """Of the training data that is held out; None where none of it is."""
        return self.validation if isinstance(self.validation, float) else None

    def validation_source(self) -> SourceSettings | None:
        """A file of held-out records, read as the training data are; None where there is none."""
        return self.source(self.validation) if isinstance(self.validation, str) else None

    def source(self, path: str | None = None) -> SourceSettings:
        """What is read, `train` where no other path is given; a value out of range raises pydantic's `ValidationError`."""
        return SourceSettings(
            path=path or self.train,
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
class FaultSettings:
    """What ends a run that no longer moves, and who is named; 0 switches a report off."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    distributed_timeout_s: Annotated[float, Field(gt=0, le=1e8)] = 1800.0
    hang_timeout_s: Seconds = 900.0
    straggler_every_n_steps: Natural = 100
    straggler_ratio: Annotated[float, Field(gt=1, le=1e6)] = 2.0


@dataclass(frozen=True)
class HealthSettings:
    """What a run finds out about itself beside its curves.

    Args:
        image_probe: training samples whose loss is measured with their own and with other samples' images, at start and end;
            0: none.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    image_probe: Annotated[int, Field(ge=0, le=4096)]


@dataclass(frozen=True)
class TrainerSettings(StartedRanks):
    """What this package itself reads of the arguments of Lightning's Trainer; the others are Lightning's to judge."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    max_steps: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = -1
    log_every_n_steps: Natural | None = 1
    enable_progress_bar: bool = True


@dataclass(frozen=True)
class ManagerSettings:
    """What this package itself reads of the settings of NeMo's experiment manager; the others are NeMo's to judge."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    exp_dir: Name | None = None
    name: Name | None = None
    explicit_log_dir: str | None = None
    resume_if_exists: bool | None = None

    @property
    def folder(self) -> Path:
        """Of the run, as the experiment manager will name it where it makes no folder per version."""
        return Path(self.explicit_log_dir or f"{self.exp_dir}/{self.name}")

    def __post_init__(self) -> None:
        if not self.explicit_log_dir and not (self.exp_dir and self.name):
            raise UserError("exp_manager.exp_dir and exp_manager.name say where the run's folder is: give both.")


@dataclass(frozen=True)
class TopLevel:
    """The whole file. ``Any``: a section that others check beside, or that the objects of its parts are made of."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: Name
    seed: Seed
    precision: Precision
    trainer: Annotated[Any, Parts((TrainerSettings,), "arguments of Lightning's Trainer")]
    exp_manager: Annotated[Any, Parts((ManagerSettings,), "settings of NeMo's exp_manager")]
    checkpoint: CheckpointSettings
    faults: FaultSettings
    health: HealthSettings
    validation: ValidationSettings
    guards: GuardSettings
    data: DataSettings
    recipe: Annotated[Any, OneOf(objectives)]
    model: Annotated[Any, Parts((ModelSettings, ParallelConfig, LlavaConfig))]
    attribute_schema: Annotated[Any, Parts((AttributeSchema,))]
    template: Annotated[Any, Parts((ChatTemplate,))]
