"""A judge of its own for tests: any schema, scores from an answer's length, in fractions where the schema allows them."""

from __future__ import annotations

from typing import Any

from nemo_mm_align.labeling.judge import JudgeReply, JudgeRequest
from nemo_mm_align.schema.attributes import AttributeSchema


class LengthJudge:
    """Every word moves each attribute by a tenth of its range, from its worse end."""

    name = "length"
    reads_metadata = False

    def __init__(self, schema: AttributeSchema) -> None:
        self.schema = schema

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def judge(self, request: JudgeRequest) -> JudgeReply:
        ratings = tuple(self._rate(text) for text in request.candidates)
        return JudgeReply(ratings, ("",) * len(ratings), "yes" if request.want_reference else None)

    def _rate(self, text: str) -> dict[str, float]:
        share = min(len(text.split()) / 10, 1)
        ratings = {}
        for item in self.schema.attributes:
            value = item.minimum + (item.maximum - item.minimum) * share
            value = item.minimum + item.maximum - value if item.higher_is_better is False else value
            ratings[item.name] = float(round(value)) if item.integer else value
        return ratings
