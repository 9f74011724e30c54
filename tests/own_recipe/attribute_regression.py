"""A toy recipe: a head tells an answer's attributes by squared error, beside the answer's likelihood if one likes.

Shapes: Q sequences of the micro batch, T attributes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_mm_align.core.configuration import NotNegative
from nemo_mm_align.datasets.kinds import Answers
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.model.head_config import HeadConfig, Pooling
from nemo_mm_align.objectives.objective import LossOutput, Objective, Reading, Reads
from nemo_mm_align.recipes.spec import RecipeSpec
from nemo_mm_align.schema.examples import Example
from nemo_mm_align.schema.prompts import Encoder

if TYPE_CHECKING:
    from nemo_mm_align.datasets.batch import Batch
    from nemo_mm_align.schema.attributes import AttributeSchema


class RatedAnswers(Answers):
    """Answers whose attributes are not asked for but to be told; one that a record leaves out is missing."""

    def encode(self, example: Example, encoder: Encoder) -> Sample:
        assert encoder.schema is not None and example.attributes is not None
        sample = super().encode(example.model_copy(update={"attributes": None}), encoder)
        known = dict(example.attributes)
        if example.id.endswith("1"):
            del known["verbosity"]
        sample.targets = [[known.get(name, math.nan) for name in encoder.schema.names]]
        return sample


@dataclass(frozen=True)
class AttributeRegression(Objective):
    """Squared error per known attribute, plus `likelihood_weight` times -log p of the answer's tokens."""

    pooling: Pooling
    likelihood_weight: NotNegative

    @property
    def reads(self) -> Reads:
        return Reads(token_losses=self.likelihood_weight > 0, hidden=self.pooling)

    def head(self, schema: AttributeSchema) -> HeadConfig:
        return HeadConfig(tuple(schema.names), self.pooling)

    def loss(self, reading: Reading, batch: Batch) -> LossOutput:
        targets_QT = batch.targets_QT
        assert targets_QT is not None
        known_QT = ~targets_QT.isnan()
        squares_QT = (reading.outputs_QT - targets_QT.nan_to_num()).square() * known_QT
        loss, count = squares_QT.sum(), known_QT.sum().int()
        if self.reads.token_losses:
            loss = loss + self.likelihood_weight * reading.token_losses_BS.sum()
        return LossOutput(loss, count, {"loss": (loss.detach().clone(), count.float())})


RECIPE = RecipeSpec(
    name="attribute_regression",
    label="Attribute regression",
    objective=AttributeRegression,
    samples=RatedAnswers(),
    build_method="steerlm",
    data="answers with their attributes",
    colour="#444444",
    conf=Path(__file__).parent / "conf",
)
