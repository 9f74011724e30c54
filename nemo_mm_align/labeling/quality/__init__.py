"""How good annotations are: their distribution and biases, and how far judges, people and repetitions agree."""

from __future__ import annotations

from pathlib import Path

from nemo_mm_align.schema.attributes import AttributeSchema


def report_quality(
    annotations: Path, schema: AttributeSchema, ledger: Path | None, image_root: Path | None = None
) -> list[str]:
    """Write the report on an annotations file; see `report.write_report`."""
    from nemo_mm_align.labeling.quality.report import write_report  # matplotlib and scipy: seconds of a run's start

    return write_report(annotations, schema, ledger, image_root)
