"""What the user can set for the report on told attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from nemo_mm_align.core.configuration import Seed, StrictModel
from nemo_mm_align.objectives.rating import Weight
from nemo_mm_align.schema.attributes import AttributeSchema


class ReportSettings(StrictModel):
    """What ``conf/attribute_report.yaml`` holds; the comments there say what each means."""

    judged: Path
    predicted: Path
    repeat: Path | None = None
    shuffled: Path | None = None
    probe: Path | None = None
    out: Path
    weights: dict[str, Weight] | None = None
    bins: Annotated[int, Field(ge=2, le=100)]
    seed: Seed
    attribute_schema: AttributeSchema
