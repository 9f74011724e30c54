"""An objective: the section ``recipe`` of a configuration, what it reads of the model, and its loss.

Importable without torch: launcher, estimates and reports ask objectives for facts.

Shapes: B rows, S positions, H hidden, Q sequences of the micro batch, T outputs of the head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import ConfigDict, Field

from nemo_mm_align.core.configuration import STRICT
from nemo_mm_align.model.head_config import HeadConfig, Pooling

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_mm_align.datasets.batch import Batch
    from nemo_mm_align.datasets.kinds import SampleKind
    from nemo_mm_align.schema.attributes import AttributeSchema
    from nemo_mm_align.schema.examples import Example

Epochs = Annotated[float, Field(gt=0, le=1e6)]


@dataclass(frozen=True)
class Reads:
    """What an objective wants to know of the last stage's hidden states.

    Args:
        token_losses: -log p of every label.
        hidden: one vector per sequence, the hidden state of its last token or the mean over its tokens. The last token of
            a sequence, which predicts nothing, is computed where this is asked for.
        distribution: beside token losses, entropy and most likely token at every label; without gradients. Training reads
            it for its metrics wherever an objective reads token losses.
    """

    token_losses: bool = False
    hidden: Pooling | None = None
    distribution: bool = False


TOKEN_LOSSES = Reads(token_losses=True)
"""What objectives on texts read."""


class Reading:
    """What was read of a micro batch; asking for what the objective did not say it reads raises `ValueError`."""

    def __init__(
        self,
        token_losses_BS: Tensor | None = None,
        hidden_QH: Tensor | None = None,
        outputs_QT: Tensor | None = None,
        entropies_BS: Tensor | None = None,
        right_BS: Tensor | None = None,
    ) -> None:
        self._token_losses_BS, self._hidden_QH, self._outputs_QT = token_losses_BS, hidden_QH, outputs_QT
        self._entropies_BS, self._right_BS = entropies_BS, right_BS

    def part(self, rows: slice, sequences: slice) -> Reading:
        """Return what was read of some rows and of the sequences in them."""

        def cut(value: Tensor | None, places: slice) -> Tensor | None:
            return None if value is None else value[places]

        return Reading(
            cut(self._token_losses_BS, rows),
            cut(self._hidden_QH, sequences),
            cut(self._outputs_QT, sequences),
            cut(self._entropies_BS, rows),
            cut(self._right_BS, rows),
        )

    @property
    def token_losses_BS(self) -> Tensor:
        """-log p of the label at every position, nats, 0 where there is none."""
        return self._read(self._token_losses_BS, "token_losses")

    @property
    def hidden_QH(self) -> Tensor:
        """A hidden state per sequence, pooled as `Reads.hidden` says."""
        return self._read(self._hidden_QH, "hidden")

    @property
    def outputs_QT(self) -> Tensor:
        """What the model's head makes of these, fp32."""
        return self._read(self._outputs_QT, "hidden, of a model with a head")

    @property
    def entropies_BS(self) -> Tensor:
        """Entropy of the distribution that the label was drawn from, nats, 0 where there is no label."""
        return self._read(self._entropies_BS, "distribution")

    @property
    def right_BS(self) -> Tensor:
        """1 where the label is the most likely token, 0 elsewhere."""
        return self._read(self._right_BS, "distribution")

    def _read(self, value: Tensor | None, name: str) -> Tensor:
        if value is None:
            raise ValueError(f"the objective does not read {name}: see its `reads`")
        return value


@dataclass(frozen=True)
class LossOutput:
    """What one micro batch contributes.

    `loss_sum` is differentiable and not yet divided; the gradient of the whole step is the sum over micro batches and
    replicas divided by the summed `count`. `metrics` maps a name to (sum, weight); the reported value is their ratio, and
    ``loss`` is among them. Every micro batch gives the same names, with weight 0 where it has nothing to say: ranks add
    them up by their order.
    """

    loss_sum: Tensor
    count: Tensor
    metrics: dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Objective(ABC):
    """Section ``recipe`` of a configuration, which is an objective with its settings.

    Default values stand in ``conf/recipe/<name>.yaml`` alone.

    Args:
        name: of the recipe.
        epochs: passes over the training data.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    needs_reference: ClassVar[bool] = False
    """Whether batches must carry log-probs of the model as it was before training."""

    starts_at_targets: ClassVar[bool] = False
    """Whether a fresh head is to tell the mean targets of an average answer before training begins."""

    name: str
    epochs: Epochs

    @property
    def reads(self) -> Reads:
        """What it wants to know of the last stage's hidden states."""
        return TOKEN_LOSSES

    @property
    def rows_shared(self) -> bool:
        """Whether the sequences of a sample lie in one row behind their common prefix."""
        return False

    @property
    def answers_grouped(self) -> bool:
        """Whether examples of one answer that have their prompt in common become one sample, see `group_answers`."""
        return False

    @property
    def has_point(self) -> bool:
        """Whether losses depend on a number that is measured on a whole step before any of them, see `point`."""
        return False

    @property
    def reference_stored(self) -> bool:
        """Whether reference log-probs are the records' own."""
        return False

    def head(self, schema: AttributeSchema) -> HeadConfig | None:
        """Return the head that the model gets on top of its hidden states; None for a model that only speaks."""
        return None

    def sample_kind(self, samples: SampleKind) -> SampleKind:
        """Return the kind of samples that its recipe names, with what settings say of it."""
        return samples

    def with_schema(self, schema: AttributeSchema) -> Objective:
        """Return the objective with what a schema says of settings that were left open; raise `UserError` where it cannot."""
        return self

    def point(self, reading: Reading, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return a sum and a weight over the mismatched answers of a micro batch (`datasets.mismatched`), without gradients.

        Their ratio over the step's micro batches and replicas is the `Batch.point` of all of its batches, so that it depends on
        the samples of the step alone.
        """
        raise NotImplementedError(f"{type(self).__name__} says that it has a point, but not which")

    def derived(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return metrics that follow from others' means, such as their differences."""
        return {}

    def hint(self, roles: Mapping[str, int]) -> str | None:
        """Return what a user should know of training data with so many sequences of each role; None for nothing."""
        return None

    def lacks(self, examples: Sequence[Example]) -> str | None:
        """Return what these settings need and a set of the right records has not, in words; None where it has all."""
        return None

    @abstractmethod
    def loss(self, reading: Reading, batch: Batch) -> LossOutput:
        """Turn what was read of a micro batch into its contribution to the step."""
