"""The command `agreement`: annotations against other judges, repetitions and people."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_mm_align.core.atomic import write_json
from nemo_mm_align.core.configuration import StrictModel, read
from nemo_mm_align.labeling.provenance import default_ledger
from nemo_mm_align.labeling.quality.collect import SCORE
from nemo_mm_align.labeling.quality.comparison import Comparison, compare
from nemo_mm_align.labeling.quality.report import write_report
from nemo_mm_align.labeling.quality.sources import RatedFile, read_ratings
from nemo_mm_align.schema.attributes import AttributeSchema

log = logging.getLogger(__name__)


class AgreementSettings(StrictModel):
    """Settings of the command, as in ``conf/agreement.yaml``.

    Args:
        annotations: the file to look at.
        against: annotation files or tables to compare it with, see `sources`.
        attribute_schema: that all of them were rated on.
        ledger: of the annotations; by default ``<annotations without suffix>.ledger.jsonl``, if it is there.
        image_root: folder of the images; by default they lie relative to the annotations.
        seed: of the bootstrap.
    """

    annotations: Path
    against: tuple[Path, ...] = ()
    attribute_schema: AttributeSchema
    ledger: Path | None = None
    image_root: Path | None = None
    seed: int = 0


def agreement_from_config(config: Mapping[str, Any]) -> list[Comparison]:
    """Run the command on a plain configuration (``conf/agreement.yaml``, resolved)."""
    return measure_agreement(read(AgreementSettings, config))


def measure_agreement(settings: AgreementSettings) -> list[Comparison]:
    """Compare, log the result, and write ``<annotations>.html`` and ``<annotations>.agreement.json``.

    Raises:
        UserError: a file is missing or broken, not of this schema, or has nothing in common with the annotations.
    """
    schema, path = settings.attribute_schema, settings.annotations
    comparisons: list[Comparison] = []
    if settings.against:
        first = _read(path, schema)
        for other in settings.against:
            comparisons.append(compare(first, _read(other, schema), schema, settings.seed))
            _log(comparisons[-1])
    ledger = settings.ledger or default_ledger(path)
    write_report(path, schema, ledger, settings.image_root, comparisons)
    values = [comparison.as_json() for comparison in comparisons]
    write_json(path.with_name(f"{path.stem}.agreement.json"), values)
    return comparisons


def _read(path: Path, schema: AttributeSchema) -> RatedFile:
    rated = read_ratings(path, schema)
    if rated.schema_fingerprint not in ("", schema.fingerprint):
        log.warning(
            "%s was rated on another wording or version of the attribute schema than %r (attribute_schema=...)",
            path,
            schema.name,
        )
    return rated


def _log(comparison: Comparison) -> None:
    for name, measures in comparison.attributes.items():
        numbers = ", ".join(
            f"{key} {item.value:.3f} [{item.low:.3f}, {item.high:.3f}]" if item.low is not None else f"{key} undefined"
            for key, item in measures.items()
        )
        log.info("%s, %d candidates: %s", name, comparison.counts[name], numbers)
    if (pairwise := comparison.pairwise) is not None and pairwise.accuracy.value is not None:
        log.info(
            "%s: %s orders %.1f %% of %d pairs like %s (%d ties of its own count one half)",
            SCORE,
            comparison.first,
            100 * pairwise.accuracy.value,
            pairwise.pairs,
            comparison.second,
            pairwise.ties,
        )
    if comparison.only_first or comparison.only_second:
        text = "%d candidates only in the annotations, %d labels only in %s"
        log.info(text, comparison.only_first, comparison.only_second, comparison.path)
