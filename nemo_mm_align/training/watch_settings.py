"""Sections ``validation`` and ``guards`` of conf/train.yaml: what is looked at while a model is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from nemo_mm_align.core.configuration import STRICT, Count, Name, Natural, NotNegative
from nemo_mm_align.core.errors import UserError

_MIN = ("loss", "mae_", "kl/", "entropy")
_MAX = ("rewards/accuracies", "rewards/margins", "mean_token_accuracy", "pair_accuracy", "logps/chosen", "logps/answer")
"""Beginnings of the metrics of which less, or more, is better."""


@dataclass(frozen=True)
class ValidationSettings:
    """When the held-out data are measured, and what the best checkpoint is chosen by.

    Args:
        every: optimizer steps between two validations; 0: only at the end.
        monitor: metric of docs/metrics.md that the best checkpoint is chosen by.
        mode: whether less or more of it is better; None: known of the usual ones.
        micro_batch_size: samples of a forward pass; None: as in training.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    every: Natural
    monitor: Name
    mode: Literal["min", "max"] | None
    micro_batch_size: Count | None

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the monitored metric is better; raise `UserError` where nobody knows."""
        if self.mode is not None:
            return self.mode == "max"
        if self.monitor.startswith(_MAX):
            return True
        if self.monitor.startswith(_MIN):
            return False
        raise UserError(
            f"validation.monitor={self.monitor}: whether less or more of it is better is not known. Say validation.mode=min or "
            "max, or monitor loss."
        )


@dataclass(frozen=True)
class GuardSettings:
    """Answers that the model gives while it is trained.

    Args:
        prompts: JSONL of prompts; None: those of `task`, or no guards at all.
        count: of its prompts that are answered, spread over the file.
        every: optimizer steps between two looks; 0: only before the first step and after the last one.
        max_new_tokens: of an answer.
        shortest, longest: mean words of an answer, as a multiple of those before the first step, beyond which is warned.
        max_batch_tokens: of the cache of positions.
        task: an evaluation task that needs no judge, as in conf/task.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    prompts: str | None
    count: Count
    every: Natural
    max_new_tokens: Count
    shortest: NotNegative
    longest: Annotated[float, Field(ge=1, le=1e6)]
    max_batch_tokens: Count
    task: dict[str, Any] | None

    @property
    def wanted(self) -> bool:
        """Whether there are any."""
        return self.prompts is not None or self.task is not None
