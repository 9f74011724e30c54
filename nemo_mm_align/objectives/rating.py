"""Answers' attributes told by a head: squared error per attribute, or losses on pairs of answers by a weighted sum of them.

Sources: NeMo-Aligner's regression reward model (Apache-2.0; masked squared error; ``regular_bt``, ``margin_bt`` and
``scaled_bt``), HelpSteer2-Preference (Wang et al., arXiv 2410.01257: the same three on pairs with a strength of preference) and,
for the weighted sum, HelpSteer2 (Wang et al., arXiv 2406.08673).

Shapes: Q sequences of the micro batch (answers, sample by sample), T attributes of the schema, P pairs of answers to one prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.head_config import HeadConfig, Pooling
from nemo_mm_align.objectives.objective import LossOutput, Objective, Reading, Reads

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_mm_align.datasets.batch import Batch
    from nemo_mm_align.schema.attributes import AttributeSchema

LossFunction = Literal["mse", "bradley_terry", "margin_bradley_terry", "scaled_bradley_terry"]
Weight = Annotated[float, Field(ge=-1e6, le=1e6)]

TIE = 1e-5
"""Weighted sums that lie no further apart are equal: they are sums in fp32."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of answers to one prompt, the better one first by what was said of them.

    Attributes:
        margin_P: by how much it is better, in weighted units; 0 where the pair does not count.
        delta_P: by how much the outputs say so.
        counts_P: whether a pair counts: both answers have all weighted attributes, and they are no tie.
    """

    margin_P: Tensor
    delta_P: Tensor
    counts_P: Tensor


@dataclass(frozen=True)
class Rating(Objective):
    """Training of a head that tells the attributes of answers, in the attributes' own units.

    Args:
        pooling: which hidden state of an answer's sequence is read: of its last token, or the mean over all its tokens.
        loss_function: ``mse``: squared error of each known value; the others: on pairs of answers to a prompt.
        weights: of the attributes in the sum by which pairs are ordered; None: the schema's score attributes, 1 each, -1 where
            lower is better. Attributes that are not named have 0.
        shared_prefix: all answers of a prompt lie in one row behind it.
    """

    starts_at_targets: ClassVar[bool] = True

    pooling: Pooling
    loss_function: LossFunction
    weights: dict[str, Weight] | None
    shared_prefix: bool

    @property
    def reads(self) -> Reads:
        """One hidden state per answer."""
        return Reads(hidden=self.pooling)

    @property
    def rows_shared(self) -> bool:
        """As the setting says."""
        return self.shared_prefix

    def head(self, schema: AttributeSchema) -> HeadConfig:
        """One output per attribute, in the order of the schema."""
        return HeadConfig(tuple(schema.names), self.pooling)

    def with_schema(self, schema: AttributeSchema) -> Rating:
        """Return the same with a weight for each attribute of the schema, in its order.

        Raises:
            UserError: weights of unknown attributes, or a loss on pairs that nothing orders.
        """
        weights = complete_weights(schema, self.weights, "recipe.weights")
        if self.loss_function != "mse" and not any(weights.values()):
            raise UserError(
                f"recipe.loss_function={self.loss_function} orders answers by a weighted sum, but no attribute has a weight. Set "
                f"recipe.weights, for example {{{schema.names[0]}: 1}}, or recipe.loss_function=mse."
            )
        return replace(self, weights=weights)

    def loss(self, reading: Reading, batch: Batch) -> LossOutput:
        """Sum over known values, or over pairs; the step divides by their number.

        Raises:
            ValueError: the batch has no targets, or the weights are not those of a schema (see `with_schema`).
        """
        targets_QT, outputs_QT = batch.targets_QT, reading.outputs_QT
        if targets_QT is None or self.weights is None or len(self.weights) != targets_QT.shape[1]:
            raise ValueError("rating needs a batch with targets, and weights by with_schema")
        known_QT = ~targets_QT.isnan()
        errors_QT = (outputs_QT - targets_QT.nan_to_num()) * known_QT
        pairs = self.pairs(outputs_QT, targets_QT, batch.sequence_counts)
        number = pairs.counts_P.sum().int()
        if self.loss_function == "mse":
            loss, count = errors_QT.square().sum(), known_QT.sum().int()
        else:
            loss, count = (self.pair_losses(pairs) * pairs.counts_P).sum(), number
        ordered = ((pairs.delta_P > 0) & pairs.counts_P).sum()
        metrics = {"loss": (loss.detach().clone(), count.float()), "pair_accuracy": (ordered.float(), number.float())}
        for place, name in enumerate(self.weights):
            error, weight = errors_QT[:, place].detach().abs().sum(), known_QT[:, place].sum().float()
            metrics[f"mae_{name}"] = (error, weight)
        return LossOutput(loss, count, metrics)

    def pair_losses(self, pairs: Pairs) -> Tensor:
        """Return the loss of each pair, [P].

        With delta the difference of the outputs' weighted sums and m that of the targets (m > 0): ``bradley_terry`` is
        -log sigmoid(delta), ``margin_bradley_terry`` -log sigmoid(delta - m), ``scaled_bradley_terry`` -m log sigmoid(delta).
        """
        from torch.nn.functional import logsigmoid

        if self.loss_function == "margin_bradley_terry":
            return -logsigmoid(pairs.delta_P - pairs.margin_P)
        losses_P = -logsigmoid(pairs.delta_P)
        return pairs.margin_P * losses_P if self.loss_function == "scaled_bradley_terry" else losses_P

    def pairs(self, outputs_QT: Tensor, targets_QT: Tensor, sequence_counts: tuple[int, ...]) -> Pairs:
        """Return every two answers of each prompt; which of them count is known on the device alone."""
        import torch

        from nemo_mm_align.core.transfers import to_device

        weights_T = to_device(torch.tensor(list((self.weights or {}).values())), outputs_QT.device)
        first_P, second_P = to_device(
            torch.tensor(_places(sequence_counts), dtype=torch.int64).view(-1, 2).t(), outputs_QT.device
        )
        complete_Q = ((weights_T == 0) | ~targets_QT.isnan()).all(dim=1)
        said_Q, told_Q = targets_QT.nan_to_num() @ weights_T, outputs_QT @ weights_T
        difference_P = said_Q[first_P] - said_Q[second_P]
        counts_P = (difference_P.abs() > TIE) & complete_Q[first_P] & complete_Q[second_P]
        delta_P = (told_Q[first_P] - told_Q[second_P]) * difference_P.sign()
        return Pairs(difference_P.abs() * counts_P, delta_P, counts_P)


def complete_weights(schema: AttributeSchema, given: Mapping[str, float] | None, key: str) -> dict[str, float]:
    """Return a weight for each attribute of the schema, in its order: the given one, else 0.

    Args:
        given: weights by name; None: 1 for the schema's score attributes, -1 where lower is better.
        key: of the setting, for messages.

    Raises:
        UserError: weights of unknown attributes.
    """
    if given is None:
        given = {name: 1.0 if schema[name].higher_is_better else -1.0 for name in schema.score}
    if unknown := [name for name in given if name not in schema.names]:
        raise UserError(f"{key} names {', '.join(unknown)}; schema {schema.name!r} has {', '.join(schema.names)}.")
    return {name: float(given.get(name, 0.0)) for name in schema.names}


def _places(sequence_counts: tuple[int, ...]) -> list[tuple[int, int]]:
    """Numbers of the sequences that answer one prompt, two at a time."""
    ends = [sum(sequence_counts[: place + 1]) for place in range(len(sequence_counts))]
    groups = (range(end - count, end) for end, count in zip(ends, sequence_counts, strict=True))
    return [pair for group in groups for pair in combinations(group, 2)]
