"""What tokens cost, as the user says it: prices change, so none is built in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from nemo_mm_align.core.configuration import StrictModel


class Price(StrictModel):
    """The price of a model (``price`` in conf/judge/*.yaml).

    Args:
        currency: for display; amounts in different currencies are never added.
        input_per_million, output_per_million: price of a million tokens of questions, and of replies with thinking.
    """

    currency: str = "USD"
    input_per_million: float = Field(ge=0, allow_inf_nan=False)
    output_per_million: float = Field(ge=0, allow_inf_nan=False)

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """Return what so many tokens cost, in `currency`."""
        return (input_tokens * self.input_per_million + output_tokens * self.output_per_million) / 1e6


PriceSettings = Mapping[str, Any] | Price | None


def read_price(value: PriceSettings) -> Price | None:
    """Return the price, or None where neither input nor output has one; `ValidationError` where one is missing."""
    if value is None or isinstance(value, Price):
        return value
    if value.get("input_per_million") is None and value.get("output_per_million") is None:
        return None
    return Price.model_validate(value)
