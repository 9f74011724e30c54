"""What of conf/train.yaml no single object can check: arguments of Lightning's Trainer, chosen sizes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from nemo_mm_align.core.errors import UserError, check_keys
from nemo_mm_align.core.nested import differing
from nemo_mm_align.model.config import LlavaConfig

_OFTEN_UNSAID = ("num_query_groups", "head_dim")
"""What one configuration says and another leaves to follow from other sizes."""

_SET_HERE = ("accelerator", "strategy", "logger", "enable_checkpointing", "use_distributed_sampler", "max_epochs")
"""Arguments of Lightning's Trainer that are not the user's to give."""


def differing_sizes(chosen: LlavaConfig, found: LlavaConfig) -> list[str]:
    """Return in which sizes the model that was chosen by name and the one in the folder differ, in words."""
    first, second = ({"language": asdict(sizes.language), "vision": asdict(sizes.vision)} for sizes in (chosen, found))
    return [
        f"{name} {value} (there {other})"
        for name, value, other in differing(first, second)
        if name.rpartition(".")[2] not in _OFTEN_UNSAID
    ]


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
