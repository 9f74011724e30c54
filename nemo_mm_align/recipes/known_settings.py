"""Keys of conf/train.yaml and their types: a key of a user's own file that stands nowhere here is a mistake, not a wish.

Hydra refuses unknown words on the command line alone; those of a YAML file it takes over.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from nemo_mm_align.errors import UserError, check_keys
from nemo_mm_align.model.config import LlavaConfig, LoRAConfig, ParallelConfig

DATA = {
    "train": str,
    "format": str,
    "split": str,
    "image_root": str | None,
    "on_fault": str,
    "on_too_long": str,
    "fault_report": str | None,
    "ignore_labels": list[str],
    "shuffle": bool,
    "num_workers": int,
    "reference_cache": str | None,
}
RECIPE = {
    "name": str,
    "epochs": float,
    "beta": float,
    "sft_loss_weight": float,
    "shared_prefix": bool,
    "use_stored_reference": bool,
}
MODEL = {
    **dict.fromkeys(LlavaConfig.__dataclass_fields__, Any),  # has its own check
    **get_type_hints(ParallelConfig),
    "hf_path": str | None,
    "checkpoint": str | None,
    "transformer_impl": str,
    "recompute": str,
    "micro_batch_size": int,
    "global_batch_size": int,
    "max_length": int,
    "lora": LoRAConfig,
}
TOP = ("name", "seed", "precision", "trainer", "exp_manager", "attribute_schema", "template")

_OFTEN_UNSAID = ("num_query_groups", "head_dim")
"""What one configuration says and another leaves to follow from other sizes."""

_SET_HERE = ("accelerator", "strategy", "logger", "enable_checkpointing", "use_distributed_sampler", "max_epochs")
"""Arguments of Lightning's Trainer that are not the user's to give."""


def differing_sizes(chosen: LlavaConfig, found: LlavaConfig) -> list[str]:
    """Return in which sizes the model that was chosen by name and the one in the folder differ, in words."""
    return [
        f"{section}.{key} {chosen_value} (there {found_value})"
        for section, first, second in (
            ("language", chosen.language, found.language),
            ("vision", chosen.vision, found.vision),
        )
        for key, chosen_value in asdict(first).items()
        if chosen_value != (found_value := asdict(second)[key]) and key not in _OFTEN_UNSAID
    ]


def check_settings(values: Mapping[str, Any], sections: Mapping[str, Any]) -> None:
    """Check keys and types of a composed conf/train.yaml.

    Args:
        values: plain dictionaries and lists.
        sections: further sections, by their dotted names, with their dataclasses: ``model.optim``, ``checkpoint``, ...

    Raises:
        UserError: an unknown key, with the nearest known one, or a value of another type.
    """
    known: dict[str, Any] = {
        **dict.fromkeys(TOP, Any),
        "seed": int,
        "data": DATA,
        "recipe": RECIPE,
        "model": dict(MODEL),
    }
    for name, kind in sections.items():
        section, _, key = name.rpartition(".")
        (known[section] if section else known)[key] = kind
    _check(values, known, "")


def check_trainer(options: Mapping[str, Any], trainer: type) -> None:
    """Check the section ``trainer`` against the arguments of Lightning's `Trainer`.

    Raises:
        UserError: an unknown key, or one that is set here.
    """
    check_keys(options, set(inspect.signature(trainer).parameters) - {"self"}, "trainer")
    taken = [key for key in _SET_HERE if key in options]
    if taken:
        raise UserError(
            f"trainer.{taken[0]} cannot be given: layout, loggers and checkpoints are set by model, exp_manager and checkpoint, "
            "the length of the run by recipe.epochs and trainer.max_steps. Remove it."
        )


def _check(values: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    check_keys(values, known, where)
    for key, value in values.items():
        kind, name = known[key], f"{where}.{key}" if where else key
        if isinstance(kind, Mapping) or is_dataclass(kind):
            _check_section(value, kind, name)
        else:
            _check_value(value, kind, name)


def _check_section(value: Any, kind: Any, name: str) -> None:
    if value is None and kind is LoRAConfig:
        return
    if not isinstance(value, Mapping):
        raise UserError(f"{name}={value!r}: is a section; give its keys one by one, {name}.KEY=VALUE.")
    _check(value, kind if isinstance(kind, Mapping) else get_type_hints(kind), name)


def _check_value(value: Any, kind: Any, name: str) -> None:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{name}={value!r}: {error.errors()[0]['msg']}.") from None
