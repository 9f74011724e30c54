"""What a job is going to do: its stages, folders and, for training, the same configuration as scripts/train.py composes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.arithmetic import planned_ranks
from nemo_mm_align.model.config import EngineConfig, LlavaConfig, LoRAConfig, ParallelConfig
from nemo_mm_align.model.huggingface_config import llava_config_from_hf
from nemo_mm_align.model.settings import read_engine, read_lora, read_parallel, sizes_of
from nemo_mm_align.workflow.stages import STAGES


@dataclass(frozen=True)
class Job:
    """What is to be checked.

    Attributes:
        stages: names of the stages that the job runs; empty on a plain look at the machine.
        judge: settings of the judge, a file of conf/judge.
        asks_judge: whether a judge is asked; None: where there is a stage `label`.
        read: further files and folders that must be there.
        write: further folders that results go to.
        training: the composed training configuration; ``None`` where none was given.
    """

    stages: tuple[str, ...] = ()
    judge: Mapping[str, Any] = field(default_factory=dict)
    asks_judge: bool | None = None
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    training: Mapping[str, Any] | None = field(default=None)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.stages) - set(STAGES))
        if unknown:
            raise UserError(f"stages: {', '.join(unknown)} is no stage; choose from {', '.join(STAGES)}.")

    @property
    def needs_judge(self) -> bool:
        """Whether a judge's key has to be there."""
        return "label" in self.stages if self.asks_judge is None else self.asks_judge

    @property
    def trains(self) -> bool:
        """Whether the job trains: only then data and results folder of the training configuration count."""
        return self.training is not None and (not self.stages or "train" in self.stages)

    def value(self, key: str, default: Any = None) -> Any:
        """A value of the training configuration by its dotted key; `default` where it is absent or was left open."""
        found: Any = self.training
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return default if found is None or found == "???" else found

    @property
    def precision(self) -> str:
        """Number format of the training."""
        return str(self.value("precision", "bf16"))

    @property
    def planned_ranks(self) -> tuple[int, int] | None:
        """Nodes and processes per node that the experiment is made for; ``None`` if it does not say."""
        return planned_ranks(self.value("trainer", {}))

    @property
    def planned_world_size(self) -> int | None:
        """Ranks that the experiment is made for; ``None`` if it does not say."""
        planned = self.planned_ranks
        return math.prod(planned) if planned else None

    @property
    def results(self) -> Path | None:
        """Folder on the shared file system that the job writes to."""
        folder = self.value("exp_manager.exp_dir") if self.trains else None
        return Path(folder) if folder else next(iter(self.write), None)

    def sizes(self) -> LlavaConfig:
        """Sizes of the model: of the folder ``model.hf_path`` where it is readable, else of the group ``model``."""
        folder = self.value("model.hf_path")
        if folder and (Path(folder) / "config.json").is_file():
            return llava_config_from_hf(folder)
        return sizes_of(self.value("model", {}))

    def parallel(self) -> ParallelConfig:
        """Layout of the training."""
        return read_parallel(self.value("model", {}))

    def lora(self) -> LoRAConfig | None:
        """Adapters of the training."""
        return read_lora(self.value("model", {}))

    def engine(self) -> EngineConfig:
        """Number format and kernels of the training."""
        return read_engine(self.training or {})


def split_words(words: Sequence[str], own: set[str]) -> tuple[list[str], list[str]]:
    """Separate the command line: the doctor's own keys and flags, and the words of scripts/train.py.

    Args:
        words: arguments as given.
        own: top-level keys of conf/doctor.yaml.
    """
    mine = [word for word in words if word.startswith("-") or word.lstrip("+~").split("=")[0].split(".")[0] in own]
    return mine, [word for word in words if word not in mine]


def compose_training(words: Sequence[str]) -> dict[str, Any]:
    """Compose conf/train.yaml with overrides as scripts/train.py would; open values (``???``) stay.

    Needs Hydra to be initialised, which it is inside an entry point.
    """
    from hydra import compose
    from hydra.errors import HydraException

    try:
        config = compose("train", overrides=list(words))
    except HydraException as error:
        raise UserError(f"the training configuration cannot be composed: {str(error).splitlines()[0]}") from None
    return plain(config)


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, interpolations resolved where that is possible."""
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return {key: _resolved(config, key, value) for key, value in values.items()}


def _resolved(config: DictConfig, key: str, value: Any) -> Any:
    """One top-level entry; one whose interpolation leads to an open value stays as it is written."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        node = config._get_node(key)
        return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else config[key]
    except OmegaConfBaseException:
        return "???" if isinstance(value, str) else value
