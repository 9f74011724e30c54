"""The four methods of the paper, told apart by their data and their loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from nemo_mm_align.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_mm_align.datasets.batch import Batch
    from nemo_mm_align.recipes.losses import LossOutput

IMITATION = ("sft", "rejection", "steerlm")
"""Methods that train on given answers, one a sample."""


class Method(Protocol):
    """A training method."""

    @property
    def name(self) -> str:
        """As in ``recipe.name``."""
        ...

    @property
    def sequences_per_sample(self) -> int:
        """1 for single answers, 2 for pairs."""
        ...

    @property
    def needs_reference(self) -> bool:
        """Whether batches must carry reference log-probs."""
        ...

    def loss(self, token_losses_BS: Tensor, batch: Batch) -> LossOutput:
        """Turn per-token losses of a micro batch, [B, S] in nats, into its contribution to the step."""
        ...


@dataclass(frozen=True)
class Imitation:
    """Likelihood of given answers: SFT, rejection sampling (its data are the best samples) and SteerLM (its prompts carry
    attributes, Dong et al., arXiv 2310.05344)."""

    name: str
    sequences_per_sample: int = 1
    needs_reference: bool = False

    def loss(self, token_losses_BS: Tensor, batch: Batch) -> LossOutput:
        """Sum of -log p over answer tokens; the step divides by their number."""
        from nemo_mm_align.recipes.losses import imitation_loss  # settings are read before torch is imported

        return imitation_loss(token_losses_BS, batch)


@dataclass(frozen=True)
class DirectPreference:
    """DPO on pairs, with the reference model's log-probs computed beforehand."""

    beta: float = 0.1
    sft_loss_weight: float = 0.0
    name: str = "dpo"
    sequences_per_sample: int = 2
    needs_reference: bool = True

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.sft_loss_weight < 0:
            raise UserError(
                f"recipe.beta={self.beta}, recipe.sft_loss_weight={self.sft_loss_weight}: beta must be above 0 (paper: "
                "0.1) and the weight at least 0."
            )

    def loss(self, token_losses_BS: Tensor, batch: Batch) -> LossOutput:
        """Sum of pair losses; the step divides by the number of pairs."""
        from nemo_mm_align.recipes.losses import preference_loss

        return preference_loss(token_losses_BS, batch, self.beta, self.sft_loss_weight)


def build_method(name: str, beta: float = 0.1, sft_loss_weight: float = 0.0) -> Method:
    """Return the method called `name`; raise `UserError` for an unknown one."""
    if name in IMITATION:
        return Imitation(name)
    if name == "dpo":
        return DirectPreference(beta, sft_loss_weight)
    raise UserError(f"recipe.name={name!r}: choose from {', '.join(IMITATION)}, dpo.")
