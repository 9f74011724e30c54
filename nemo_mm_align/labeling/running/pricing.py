"""The price of a judge, as its configuration group gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.labeling.judge import Price

PriceSettings = Mapping[str, Any] | Price | None


def read_price(value: PriceSettings) -> Price | None:
    """Return the price, or None where neither input nor output has one; `ValidationError` where one is missing."""
    if value is None or isinstance(value, Price):
        return value
    if value.get("input_per_million") is None and value.get("output_per_million") is None:
        return None
    return Price.model_validate(value)
