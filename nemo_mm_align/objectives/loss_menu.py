"""Preference training by losses that settings name: one of `pair_losses`, or a weighted sum of several.

Shapes: P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args

from pydantic import Field

from nemo_mm_align.core.configuration import NotNegative, Positive
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.objectives.pair_losses import PAIR_LOSSES, LossName
from nemo_mm_align.objectives.pair_losses.pair_loss import PairLogRatios, PairLoss
from nemo_mm_align.objectives.preference import PairObjective, Preference

if TYPE_CHECKING:
    from torch import Tensor

Smoothing = Annotated[float, Field(ge=0, lt=0.5)]
"""Share of pairs whose labels are wrong."""


def loss_of(kind: type[PairLoss], settings: Any) -> PairLoss:
    """Return a loss with its settings, taken from attributes of the same names."""
    return kind(**{item.name: getattr(settings, item.name) for item in fields(kind)})


def _smooths(name: str) -> bool:
    return "label_smoothing" in {item.name for item in fields(PAIR_LOSSES[name])}


@dataclass(frozen=True)
class OneLoss(PairObjective):
    """Training by the one loss that a class names; its settings are fields of the class."""

    kind: ClassVar[type[PairLoss]]

    @cached_property
    def pair_loss(self) -> PairLoss:
        """The loss with the section's settings."""
        return loss_of(self.kind, self)

    def __post_init__(self) -> None:
        """Raise `UserError` for settings that the loss refuses."""
        assert self.pair_loss.per_token == self.per_token, f"{type(self).__name__}.per_token"

    def pair_losses(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        return self.pair_loss(ratios)


@dataclass(frozen=True)
class NamedLosses(Preference):
    """Training by the losses that ``loss_type`` names, under TRL's names of them and of their settings.

    A recipe says which names there are, by a narrower type of `loss_type`.

    Args:
        loss_type: a name, or a list of names: the loss is their sum, on log-probs of each as it wants them.
        loss_weights: in that sum, as many as names; None: 1 each.
        label_smoothing: share of pairs whose labels are wrong; see the losses that read it.
        discopop_tau: temperature of discopop's blend.
    """

    loss_type: str | tuple[str, ...]
    loss_weights: tuple[NotNegative, ...] | None
    label_smoothing: Smoothing
    discopop_tau: Positive

    def __post_init__(self) -> None:
        """Raise `UserError` for settings that do not fit together."""
        names = self.names
        if len(set(names)) < len(names):
            raise UserError(f"recipe.loss_type=[{','.join(names)}]: names a loss twice. Add up their weights.")
        if not any(PAIR_LOSSES[name].needs_reference for name in names):
            raise UserError(
                f"recipe.loss_type={names[0]} compares nothing. Add a loss on pairs, or take a recipe on answers."
            )
        if self.loss_weights is not None:
            self._check_weights(self.loss_weights)
        if self.label_smoothing and not any(_smooths(name) for name in names):
            readers = ", ".join(name for name in get_args(LossName) if _smooths(name))
            raise UserError(
                f"recipe.label_smoothing={self.label_smoothing:g}: recipe.loss_type={self._shown} does not read it, "
                f"{readers} do. Take 0."
            )
        assert self.losses

    def _check_weights(self, weights: Sequence[float]) -> None:
        shown = f"recipe.loss_weights=[{','.join(f'{weight:g}' for weight in weights)}]"
        if len(weights) != len(self.names):
            raise UserError(
                f"{shown}: recipe.loss_type={self._shown} names {len(self.names)}. Give one weight for each, or null."
            )
        if not any(
            weight for name, weight in zip(self.names, weights, strict=True) if PAIR_LOSSES[name].needs_reference
        ):
            raise UserError(f"{shown}: no loss on pairs has a weight above 0. Give one of them one.")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the losses."""
        return (self.loss_type,) if isinstance(self.loss_type, str) else self.loss_type

    @property
    def _shown(self) -> str:
        return f"[{','.join(self.names)}]"

    @cached_property
    def losses(self) -> dict[str, tuple[float, PairLoss]]:
        """Weight and loss by name."""
        weights = self.loss_weights or (1.0,) * len(self.names)
        return {
            name: (weight, loss_of(PAIR_LOSSES[name], self)) for name, weight in zip(self.names, weights, strict=True)
        }

    def parts(self, ratios: PairLogRatios) -> dict[str, Tensor]:
        """Weighted losses by name, [P] each."""
        return {
            name: loss.of_sums(ratios) if weight == 1 else weight * loss.of_sums(ratios)
            for name, (weight, loss) in self.losses.items()
        }

    def pair_losses(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P], from sums over tokens."""
        total_P: Tensor = sum(self.parts(ratios).values())  # type: ignore[assignment]
        return total_P
