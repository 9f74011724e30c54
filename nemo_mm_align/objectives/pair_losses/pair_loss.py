"""What a loss on pairs of answers sees, and what it says of itself.

Shapes: P pairs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PairLogRatios:
    """Chosen and rejected answers of P pairs, nats: sums over an answer's tokens, or their means where a loss asks for these.

    Attributes:
        chosen_P, rejected_P: log policy - log reference; log policy alone where there is no reference.
        chosen_lengths_P, rejected_lengths_P: tokens of the answers.
        chosen_log_probs_P: log policy of the chosen answers.
        margins_P: by how much the chosen answer is better, by its ratings: scaled and weighted, in units of rewards.
    """

    chosen_P: Tensor
    rejected_P: Tensor
    chosen_lengths_P: Tensor | None = None
    rejected_lengths_P: Tensor | None = None
    chosen_log_probs_P: Tensor | None = None
    margins_P: Tensor | None = None

    @property
    def delta_P(self) -> Tensor:
        """Chosen minus rejected."""
        return self.chosen_P - self.rejected_P

    def detached(self) -> PairLogRatios:
        """Return the same without gradients."""
        changes = {
            item.name: value.detach() for item in fields(self) if (value := getattr(self, item.name)) is not None
        }
        return replace(self, **changes)

    def means(self) -> PairLogRatios:
        """Return means over the tokens of each answer in place of sums; raise `ValueError` where lengths are not known."""
        chosen, rejected, log_probs = self.chosen_lengths_P, self.rejected_lengths_P, self.chosen_log_probs_P
        if chosen is None or rejected is None:
            raise ValueError("means over tokens need the answers' lengths")
        return replace(
            self,
            chosen_P=self.chosen_P / chosen,
            rejected_P=self.rejected_P / rejected,
            chosen_log_probs_P=None if log_probs is None else log_probs / chosen,
        )


@dataclass(frozen=True)
class PairLoss(ABC):
    """A loss of each pair. Its fields are settings: an objective that computes it has keys of the same names.

    Call it with tensors of any float type; what it returns is differentiable in `chosen_P` and `rejected_P`.

    Attributes:
        name: TRL's, where TRL has the loss.
        per_token: it is computed of means over an answer's tokens, not of sums.
        needs_reference: its log-ratios are to a reference.
        needs_margins: it reads `PairLogRatios.margins_P`.
        source: of its formula.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    per_token: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = True
    needs_margins: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""

    def of_sums(self, ratios: PairLogRatios) -> Tensor:
        """Return the same of sums over tokens, whatever the loss is computed of."""
        return self(ratios.means() if self.per_token else ratios)


def known(values_P: Tensor | None, what: str) -> Tensor:
    """Return what a loss needs; raise `ValueError` where nobody gave it."""
    if values_P is None:
        raise ValueError(f"this loss needs {what}")
    return values_P
