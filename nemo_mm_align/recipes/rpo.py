"""Reward-aware preference optimisation: margins follow given rewards (Nemotron-4 340B, arXiv 2406.11704)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.kinds import SCORED_PAIRS
from nemo_mm_align.objectives.loss_menu import NamedLosses
from nemo_mm_align.objectives.margins import WithMargins
from nemo_mm_align.objectives.pair_losses import PAIR_LOSSES, MarginLossName
from nemo_mm_align.recipes.pairs import pair_recipe


@dataclass(frozen=True)
class RewardAwarePreference(WithMargins, NamedLosses):
    """See `RpoSquared`, `RpoForward` and `RpoBackward`; the other losses of `NamedLosses` can stand beside them."""

    loss_type: MarginLossName | Annotated[tuple[MarginLossName, ...], Field(min_length=1)]

    def __post_init__(self) -> None:
        """Raise `UserError` for settings that do not fit together, or that read no margins."""
        super().__post_init__()
        if not any(PAIR_LOSSES[name].needs_margins for name in self.names):
            raise UserError(
                f"recipe.loss_type=[{','.join(self.names)}] reads no margins. Add one of the rpo_ losses, or take recipe=dpo."
            )


RECIPE = pair_recipe(
    "rpo", "RPO", RewardAwarePreference, "#2b8cbe", samples=SCORED_PAIRS, data="preference pairs with scores or ratings"
)
