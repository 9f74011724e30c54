"""What a report shows of one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.results import Results
from nemo_mm_align.evaluation.steering_report import SteeredSample
from nemo_mm_align.evaluation.tables import ReportSample
from nemo_mm_align.schema.attributes import AttributeSchema


@dataclass(frozen=True)
class TaskReport:
    """One task's part of a report.

    Args:
        results: its figures.
        schema: what its judge rates by.
        samples, steered: what the report shows of its answers.
        cautions: what a reader could take for success and is not.
        scored: all its answers by method, for the plot of score against length.
    """

    results: Results
    schema: AttributeSchema
    samples: Sequence[ReportSample] = ()
    steered: Sequence[SteeredSample] = ()
    cautions: Sequence[str] = ()
    scored: Mapping[str, Sequence[ScoredAnswer]] = field(default_factory=dict)
