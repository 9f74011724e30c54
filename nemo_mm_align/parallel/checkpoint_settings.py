"""When checkpoints are written, and how many stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from nemo_mm_align.core.configuration import STRICT, Count, Natural


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written and whether a run goes on from its newest one."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    every_n_steps: Natural = 100
    keep: Count = 2
    resume: bool = True
    asynchronous: bool = True
