"""Settings of the optimizer; needs no torch, so that a mistake in them is found before anything slow is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from nemo_mm_align.core.configuration import STRICT, NotNegative, Positive, Share
from nemo_mm_align.core.errors import UserError

_Beta = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class OptimConfig:
    """Settings of the optimizer; names as in NeMo's ``model.optim`` where it has them.

    Adapters and language model train at `lr`, the multimodal projector at `projector_lr` (``None`` = the same). The
    defaults are the paper's for DPO.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    lr: NotNegative = 5e-5
    projector_lr: NotNegative | None = 2e-5
    min_lr_ratio: Share = 0.0
    weight_decay: NotNegative = 0.0
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    eps: Positive = 1e-8
    clip_grad: NotNegative = 1.0
    schedule: str = "cosine"
    warmup_ratio: Share = 0.03
    use_distributed_optimizer: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        if self.lr <= 0 or (self.projector_lr is not None and self.projector_lr <= 0):
            raise UserError(f"model.optim.lr={self.lr}, projector_lr={self.projector_lr}: rates must be above 0.")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise UserError(f"model.optim.schedule={self.schedule!r}: choose from cosine, linear, constant.")
        if not 0 <= self.warmup_ratio < 1 or not 0 <= self.min_lr_ratio <= 1:
            raise UserError("model.optim.warmup_ratio must lie in [0, 1) and min_lr_ratio in [0, 1].")
