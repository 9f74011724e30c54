"""Tables, cards and lists of ``annotations.html``, as plain values for its template."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.quality.collect import LENGTH, SCORE, Quality
from nemo_mm_align.labeling.quality.comparison import Comparison
from nemo_mm_align.reporting.agreement import MEASURES, Estimate, PairwiseAccuracy
from nemo_mm_align.reporting.images import image_uri
from nemo_mm_align.reporting.tables import Cell, Fact, cells, fact_lists, flat, measured, named_values, number
from nemo_mm_align.schema.image_paths import resolve_image
from nemo_mm_align.schema.records import Annotation

log = logging.getLogger(__name__)

THUMBNAIL_EDGE = 264
"""Twice the width at which the page shows an image, in pixels."""
SHOWN_TEXT = 1500
HEADS = {"pearson": "Pearson", "spearman": "Spearman", "kappa": "Kappa", "mad": "Mean |difference|", "exact": "Equal"}


def attribute_rows(quality: Quality) -> Iterator[list[Cell]]:
    """One attribute per row, and the score: mean, share of the best value, correlation with length."""
    for name in quality.histograms:
        best = f"{quality.at_best[name] / quality.candidates:.0%}" if name != SCORE else ""
        correlation = quality.correlations.between(name, LENGTH)
        yield cells(name, number(quality.correlations.mean(name)), best, number(correlation, "+.2f"))


def position_rows(quality: Quality) -> Iterator[list[Cell]]:
    """One place in the request per row: what candidates that were shown there score."""
    for place, (difference, score) in enumerate(zip(quality.positions, quality.position_scores, strict=True), start=1):
        means = measured(score.mean, score.interval), measured(difference.mean, difference.interval, "+.2f")
        yield [*cells(place, f"{score.count:,}"), *means]


def _estimate(estimate: Estimate, percent: bool = False) -> Cell:
    return measured(estimate.value, estimate.interval, ".0%" if percent else ".2f")


def agreement_section(comparison: Comparison) -> dict[str, Any]:
    """What a section says of one comparison."""
    rows = [
        [*cells(name, f"{comparison.counts[name]:,}"), *(_estimate(measures[key], key == "exact") for key in MEASURES)]
        for name, measures in comparison.attributes.items()
    ]
    return {
        "title": f"{comparison.first} and {comparison.second}",
        "text": _in_common(comparison),
        "heads": ["Attribute", "Candidates", *HEADS.values()],
        "rows": rows,
        "pairwise": _pairwise(comparison.pairwise, comparison) if comparison.pairwise else "",
    }


def _in_common(comparison: Comparison) -> str:
    prompts, path, only_second = comparison.prompts, comparison.path, comparison.only_second
    if not comparison.candidates:
        return f"Preferences on {prompts:,} prompts in {path}; {only_second:,} unmatched."
    return (
        f"{comparison.candidates:,} candidates of {prompts:,} prompts in common with {path}; "
        f"{comparison.only_first:,} only here, {only_second:,} only there."
    )


def _pairwise(pairwise: PairwiseAccuracy, comparison: Comparison) -> str:
    accuracy, decided = _estimate(pairwise.accuracy, True), _estimate(pairwise.decided, True)
    return (
        f"Of {pairwise.pairs:,} pairs of candidates ordered by {comparison.second}, {comparison.first}'s score orders "
        f"{accuracy.value} {accuracy.small} alike, its {pairwise.ties:,} ties counted as one half; without them "
        f"{decided.value} {decided.small}. Pairs not ordered by {comparison.second}: {pairwise.undecided:,}."
    )


def sample_card(annotation: Annotation, quality: Quality, image_root: Path | None) -> dict[str, Any]:
    """One prompt with its images inlined and its rated candidates; an image that does not open is left out."""
    reference = (annotation.reference_answer or "")[:SHOWN_TEXT]
    places = {index: place for place, index in enumerate(annotation.order, start=1)}
    answers = [
        {
            "place": str(places.get(index, index + 1)),
            "text": candidate.text[:SHOWN_TEXT] or "(empty)",
            "scores": named_values(quality.schema.check(candidate.ratings)),
            "reasoning": candidate.reasoning[:SHOWN_TEXT],
        }
        for index, candidate in enumerate(annotation.candidates)
    ]
    images = (_thumbnail(image, quality.path, image_root) for image in annotation.prompt.images)
    return {
        "images": [image for image in images if image],
        "question": annotation.prompt.question[:SHOWN_TEXT],
        "notes": [f"The judge's own answer: {reference}"] if reference else [],
        "answers": sorted(answers, key=lambda answer: int(answer["place"])),
    }


def _thumbnail(image: str, annotations: Path, image_root: Path | None) -> str | None:
    try:
        return image_uri(resolve_image(image, annotations, image_root), THUMBNAIL_EDGE, "jpeg")
    except UserError as error:
        log.warning("a sample's image is left out of the report: %s", error)
        return None


def made_of(quality: Quality) -> list[tuple[str, list[Fact]]]:
    """What the annotations were made with, as headings with (name, value) pairs."""
    settings = {name: value for name, value in quality.settings.items() if name != "attribute_schema"}
    schema = [
        (attribute.name, f"{attribute.minimum:g} to {attribute.maximum:g}. {attribute.description}")
        for attribute in quality.schema.attributes
    ]
    return fact_lists([("Judge and settings", flat(settings)), (f"Attribute schema {quality.schema.name}", schema)])
