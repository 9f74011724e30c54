"""Margins of pairs: by how much the chosen answer is better, as the records' scores or ratings say.

Shapes: P pairs, T targets of a sequence: its score, then its ratings in the order of the schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from nemo_mm_align.core.configuration import Positive
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.sample import CHOSEN, REJECTED
from nemo_mm_align.objectives.pair_losses.pair_loss import PairLogRatios, known
from nemo_mm_align.objectives.preference import PairObjective
from nemo_mm_align.objectives.rating import Weight, complete_weights
from nemo_mm_align.schema.examples import Example, PreferenceExample

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_mm_align.datasets.batch import Batch
    from nemo_mm_align.schema.attributes import AttributeSchema


@dataclass(frozen=True)
class WithMargins(PairObjective):
    """Training that reads margins: scale * (reward of chosen - reward of rejected).

    Args:
        margin_weights: of attributes, whose weighted sum of ratings is the reward; None: the records' own scores are.
        margin_scale: from units of these rewards to nats (NeMo-Aligner's ``gt_reward_scale``).
    """

    margin_weights: dict[str, Weight] | None
    margin_scale: Positive

    def with_schema(self, schema: AttributeSchema) -> Self:
        """Return the same with a weight for each attribute of the schema; raise `UserError` where none has one."""
        if self.margin_weights is None:
            return self
        weights = complete_weights(schema, self.margin_weights, "recipe.margin_weights")
        if not any(weights.values()):
            raise UserError(
                "recipe.margin_weights: no attribute has a weight. Give one, or null for the records' scores."
            )
        return replace(self, margin_weights=weights)

    @property
    def _weighted(self) -> list[str]:
        return [name for name, weight in (self.margin_weights or {}).items() if weight]

    def lacks(self, examples: Sequence[Example]) -> str | None:
        """Every pair needs what its margin is made of."""
        without = [example.id for example in examples if not self._has_margin(example)]
        if not without:
            return None
        what = (
            f"chosen_ratings and rejected_ratings with {', '.join(self._weighted)} (recipe.margin_weights)"
            if self._weighted
            else "chosen_score and rejected_score (or set recipe.margin_weights, where there are ratings)"
        )
        return (
            f"{what} in every pair; {len(without)} of {len(examples)} have not got them, the first is {without[0]!r}."
        )

    def _has_margin(self, example: Example) -> bool:
        if not isinstance(example, PreferenceExample):
            return False
        if not self._weighted:
            return example.chosen_score is not None and example.rejected_score is not None
        return all(
            name in (known or {})
            for known in (example.chosen_ratings, example.rejected_ratings)
            for name in self._weighted
        )

    def margins(self, batch: Batch) -> Tensor:
        """Return the margin of each pair, [P], from the batch's targets; raise `ValueError` where it has none."""
        targets_QT = known(batch.targets_QT, "a batch with targets")
        gap_PT = batch.of_role(CHOSEN, targets_QT) - batch.of_role(REJECTED, targets_QT)
        if self.margin_weights is None:
            return self.margin_scale * gap_PT[:, 0]
        terms = [weight * gap_PT[:, 1 + place] for place, weight in enumerate(self.margin_weights.values()) if weight]
        return self.margin_scale * sum(terms[1:], terms[0])

    def further_metrics(self, ratios: PairLogRatios) -> dict[str, Tensor]:
        """Margins that the records ask for."""
        return {"target_margins": known(ratios.margins_P, "margins")}
