"""Model, layout, number format and adapters of a training, read from the values of conf/train.yaml.

The estimator and the doctor read them here as well, so that they judge what training will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from nemo_mm_align.errors import UserError
from nemo_mm_align.model.config import EngineConfig, LlavaConfig, LoRAConfig, ParallelConfig, from_values
from nemo_mm_align.model.huggingface_config import llava_config_from_hf
from nemo_mm_align.repository import CONF


def read_sizes(model: Mapping[str, Any]) -> LlavaConfig:
    """Sizes of the model: the keys of conf/model/*.yaml among those of the section ``model``."""
    return LlavaConfig.from_dict({item.name: model[item.name] for item in fields(LlavaConfig) if item.name in model})


def chosen_sizes(model: Mapping[str, Any]) -> LlavaConfig | None:
    """Sizes of the group that the section ``model`` was chosen from; ``None`` where none was (``model.hf_path`` alone)."""
    return read_sizes(model) if "language" in model else None


def sizes_of(model: Mapping[str, Any]) -> LlavaConfig:
    """Sizes of the chosen group, else of the folder ``model.hf_path``; raise `UserError` where neither is given."""
    chosen = chosen_sizes(model)
    if chosen is not None:
        return chosen
    folder = model.get("hf_path")
    if not folder or folder == "???":
        names = ", ".join(sorted(path.stem for path in (CONF / "model").glob("*.yaml")))
        raise UserError(
            f"no model is chosen: give model=NAME, one of {names}, or model.hf_path=FOLDER of one of your own."
        )
    return llava_config_from_hf(folder)


def read_parallel(model: Mapping[str, Any]) -> ParallelConfig:
    """Layout of the section ``model``."""
    return ParallelConfig(**{item.name: model[item.name] for item in fields(ParallelConfig) if item.name in model})


def read_engine(values: Mapping[str, Any]) -> EngineConfig:
    """Number format, kernels and recomputation, of the whole configuration."""
    model = values["model"]
    return EngineConfig(values["precision"], model["transformer_impl"], model["recompute"], values["seed"])


def read_lora(model: Mapping[str, Any]) -> LoRAConfig | None:
    """Adapters of the section ``model``, ``None`` without; an unknown key of theirs raises `UserError`."""
    values = model.get("lora")
    lora: LoRAConfig | None = from_values(LoRAConfig, dict(values), "model.lora") if values else None
    return lora
