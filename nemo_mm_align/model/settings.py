"""Section ``model`` of conf/train.yaml as typed objects: sizes, layout, and what training does with the model.

The estimator and the doctor read it here as well, so that they judge what training will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pydantic import ConfigDict

from nemo_mm_align.core.configuration import STRICT, Count, check_section, keys_of, read, read_known, read_together
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.model.config import (
    EngineConfig,
    Levers,
    LlavaConfig,
    LoRAConfig,
    ParallelConfig,
    Recompute,
    TransformerImpl,
)
from nemo_mm_align.model.huggingface_config import llava_config_from_hf
from nemo_mm_align.parallel.optim_config import OptimConfig


@dataclass(frozen=True)
class TrainableParts:
    """Which parts full fine-tuning changes; with LoRA only `projector` and `vision` are asked."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    language: bool = True
    projector: bool = True
    vision: bool = False


@dataclass(frozen=True)
class ModelSettings:
    """What stands in section ``model`` beside the model's sizes (`LlavaConfig`) and its layout (`ParallelConfig`).

    Args:
        micro_batch_tokens: positions per micro batch, which is one row then; None: micro batches of `micro_batch_size` samples.
        reference_micro_batch_size: samples per pass of the reference, None as many as training's memory has room for.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    micro_batch_size: Count
    global_batch_size: Count
    max_length: Count
    micro_batch_tokens: Count | None = None
    reference_micro_batch_size: Count | None = None
    hf_path: str | None = None
    checkpoint: str | None = None
    transformer_impl: TransformerImpl = "auto"
    recompute: Recompute = "none"
    levers: Levers = field(default_factory=Levers)
    lora: LoRAConfig | None = None
    train: TrainableParts = field(default_factory=TrainableParts)
    optim: OptimConfig = field(default_factory=OptimConfig)

    @property
    def samples_per_pass(self) -> int | None:
        """Samples of a training's micro batch; None where their number follows from `micro_batch_tokens`."""
        return self.micro_batch_size if self.micro_batch_tokens is None else None


@dataclass(frozen=True)
class ModelSection:
    """The whole section: `sizes` are those of the group ``model``, None where none was chosen (``model.hf_path`` alone)."""

    settings: ModelSettings
    parallel: ParallelConfig
    sizes: LlavaConfig | None


def read_model(model: Mapping[str, Any]) -> ModelSection:
    """Return the section ``model``; raise `UserError` for an unknown key or a value of another type or out of range."""
    check_section(model, "model")
    kinds = [ModelSettings, ParallelConfig, *([LlavaConfig] if "language" in model else [])]
    settings, parallel, *sizes = read_together(kinds, model, "model")
    return ModelSection(settings, parallel, sizes[0] if sizes else None)


def sizes_of(model: Mapping[str, Any]) -> LlavaConfig:
    """Sizes of the chosen group, else of the folder ``model.hf_path``; raise `UserError` where neither is given."""
    check_section(model, "model")
    if "language" in model:
        return read_known(LlavaConfig, model, "model")
    folder = model.get("hf_path")
    if not folder or folder == "???":
        names = ", ".join(sorted(path.stem for path in (CONF / "model").glob("*.yaml")))
        raise UserError(
            f"no model is chosen: give model=NAME, one of {names}, or model.hf_path=FOLDER of one of your own."
        )
    return llava_config_from_hf(folder)


def read_parallel(model: Mapping[str, Any], where: str = "model") -> ParallelConfig:
    """Layout of a section, whatever else is in it."""
    return read_known(ParallelConfig, model, where)


def layout_of(settings: object) -> ParallelConfig:
    """Layout of settings that have its keys among their own, by the same names; a key that they lack keeps its default."""
    return ParallelConfig(
        **{name: getattr(settings, name) for name in keys_of(ParallelConfig) if hasattr(settings, name)}
    )


def read_engine(values: Mapping[str, Any]) -> EngineConfig:
    """Number format, kernels, recomputation and levers, of the whole configuration."""
    model = values["model"]
    engine = {"precision": values["precision"], "seed": values["seed"]}
    config = read(EngineConfig, engine | {key: model[key] for key in ("transformer_impl", "recompute")})
    return replace(config, levers=read(Levers, model.get("levers", {}), "model.levers"))


def read_lora(model: Mapping[str, Any]) -> LoRAConfig | None:
    """Adapters of the section ``model``, ``None`` without; an unknown key of theirs raises `UserError`."""
    values = model.get("lora")
    return read(LoRAConfig, values, "model.lora") if values is not None else None
