"""Settings of the part ``lengths``; the comments of conf/benchmark/size/full.yaml say what each means."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from nemo_mm_align.core.configuration import Count, Natural, Positive, StrictModel, read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.config import EngineConfig, Lever, LoRAConfig


class Spread(StrictModel):
    """Log-normal numbers of tokens: exp(log(median) + spread x z) with a normal z, between `least` and `most`."""

    median: Positive
    spread: Positive
    least: Count
    most: Count

    def tokens(self, z: float, scale: float) -> int:
        """Tokens at a normal deviate; median and bounds are multiplied by `scale`."""
        drawn = self.median * math.exp(self.spread * z)
        return max(1, round(scale * min(max(drawn, self.least), self.most)))


class Distribution(StrictModel):
    """How long prompts and answers are beside a picture; the comments of conf/benchmark/size/full.yaml say more.

    Args:
        image: tokens of the picture that the other numbers go with; they shrink with a smaller one.
        likeness: correlation of the deviates z of the answers to one prompt.
        line_text, line_values: tokens of a line of attributes: what all answers to a prompt share, and each one's own.
    """

    image: Count
    prompt: Spread
    answer: Spread
    likeness: Annotated[float, Field(ge=0, le=1)]
    line_text: Natural
    line_values: Natural


def _of_engine(changes: dict[str, Any]) -> dict[str, Any]:
    if "levers" in changes:
        raise ValueError("engine.levers: name those that are pulled in levers, beside engine.")
    try:
        read(EngineConfig, changes, "engine")
    except UserError as error:
        raise ValueError(str(error)) from None
    return changes


class Line(StrictModel):
    """A line of ours: which capabilities are on.

    Args:
        shared_prefix: answers to one prompt lie in one row behind it.
        cached_reference: reference log-probs were computed before.
        full_rows: each micro batch is one row, of as many positions as so many samples have on average.
        levers: that are pulled, whether they pay or not; no others are.
        engine: other changes of `EngineConfig`.
        micro_batch: samples at a time; None: as many as the first line, which tries.
    """

    shared_prefix: bool = False
    cached_reference: bool = False
    full_rows: bool = False
    levers: list[Lever] = []
    engine: Annotated[dict[str, Any], AfterValidator(_of_engine)] = {}
    micro_batch: Count | None = None


class Case(StrictModel):
    """A global batch of one recipe.

    Args:
        recipe: None: the one that the case is named after.
        adapters: trained instead of the language model; lines are then held against the first of them, for the peers train all.
    """

    recipe: str | None = None
    adapters: LoRAConfig | None = None
    prompts: Count
    answers: Count
    micro_batches: list[Count]


class MeasuredModel(StrictModel):
    """What is measured with one model; `memory` names the lines whose peak is, None: all that a user can have."""

    rounds: Count
    memory: list[str] | None = None
    precisions: list[Literal["fp32", "bf16"]]
    cases: dict[str, Case]


class LengthsSize(StrictModel):
    """How much is measured; cases and their lines go by the same names."""

    distribution: Distribution
    models: dict[str, MeasuredModel]
    lines: dict[str, dict[str, Line]]

    @model_validator(mode="after")
    def _every_case_has_lines(self) -> LengthsSize:
        for name, model in self.models.items():
            for case in model.cases:
                if not self.lines.get(case):
                    raise ValueError(
                        f"models.{name}.cases: {case!r} has no lines. Give lines.{case}, or leave the case out."
                    )
        return self
