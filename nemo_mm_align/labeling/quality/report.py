"""``annotations.html``: one self-contained page on a file of annotations."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_mm_align.atomic import write_text
from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.errors import UserError
from nemo_mm_align.labeling.judge import Price
from nemo_mm_align.labeling.provenance import report_path
from nemo_mm_align.labeling.quality import findings, page, plots
from nemo_mm_align.labeling.quality.agreement import MEASURES, Estimate, PairwiseAccuracy
from nemo_mm_align.labeling.quality.collect import LENGTH, SCORE, Quality, collect
from nemo_mm_align.labeling.quality.comparison import Comparison
from nemo_mm_align.labeling.running.budget import describe_tokens
from nemo_mm_align.labeling.running.spending import Tokens
from nemo_mm_align.records import Annotation, resolve_image
from nemo_mm_align.reporting.images import image_uri
from nemo_mm_align.reporting.page import render
from nemo_mm_align.reporting.tables import Cell, Fact, cells, fact_lists, flat, measured, named_values, number

log = logging.getLogger(__name__)

THUMBNAIL_EDGE = 264
"""Twice the width at which the page shows an image, in pixels."""
SHOWN_TEXT = 1500
HEADS = {"pearson": "Pearson", "spearman": "Spearman", "kappa": "Kappa", "mad": "Mean |difference|", "exact": "Equal"}


def write_report(
    annotations: Path,
    schema: AttributeSchema,
    ledger: Path | None,
    image_root: Path | None = None,
    comparisons: Sequence[Comparison] = (),
) -> list[str]:
    """Write the page beside the annotations, log what is unusual, and return that.

    Raises:
        UserError: the annotations cannot be read, or are not of this schema.
    """
    quality = collect(annotations, schema, ledger)
    found = findings.log_findings(quality)
    path = report_path(annotations)
    write_text(path, render_quality(quality, found, image_root, comparisons))
    log.info("quality of the annotations: %s", path)
    return found


def render_quality(
    quality: Quality, found: Sequence[str], image_root: Path | None = None, comparisons: Sequence[Comparison] = ()
) -> str:
    """Return the page; an image that does not open is left out."""
    return render(
        page.TEMPLATE,
        f"Annotations: {quality.path.name}",
        headline=f"{quality.candidates:,} candidates of {quality.prompts:,} prompts, rated by {_listed(quality.judges)}.",
        made_with=_made_with(quality),
        findings=found,
        distributions=plots.plot_distributions(quality),
        score_means=_score_means(quality.schema),
        attribute_heads=["Attribute", "Mean", "at its best (highest) value", "Correlation with length"],
        attribute_rows=list(_attribute_rows(quality)),
        correlations=plots.plot_correlations(quality),
        positions=plots.plot_positions(quality.positions) if len(quality.positions) > 1 else None,
        position_rows=list(_position_rows(quality)) if len(quality.positions) > 1 else [],
        agreements=[_agreement(comparison) for comparison in comparisons],
        calls_text=_calls(quality),
        failure_rows=[
            cells(kind, f"{count:,}", f"{count / quality.calls:.1%}") for kind, count in quality.failures.most_common()
        ],
        timeline=plots.plot_timeline(quality) if len(quality.timeline.blocks) > 1 else None,
        samples=[_sample(annotation, quality, image_root) for annotation in quality.samples],
        fact_lists=_facts(quality),
        checks=_checks(),
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name or 'unknown'} ({count:,})" if len(counts) > 1 else name for name, count in counts.items())


def _made_with(quality: Quality) -> str:
    hashes = _listed(quality.configurations)
    return f"Attribute schema {quality.schema.name}; configuration {hashes or 'unknown'}."


def _score_means(schema: AttributeSchema) -> str:
    if not schema.score:
        return "The schema names no score."
    low = [name for name in schema.score if schema[name].higher_is_better is False]
    text = f"Score: {' + '.join(schema.score)}"
    return f"{text}; {', '.join(low)} counted from the other end." if low else f"{text}."


def _attribute_rows(quality: Quality) -> Iterator[list[Cell]]:
    for name in quality.histograms:
        best = f"{quality.at_best[name] / quality.candidates:.0%}" if name != SCORE else ""
        correlation = quality.correlations.between(name, LENGTH)
        yield cells(name, number(quality.correlations.mean(name)), best, number(correlation, "+.2f"))


def _position_rows(quality: Quality) -> Iterator[list[Cell]]:
    for place, (difference, score) in enumerate(zip(quality.positions, quality.position_scores, strict=True), start=1):
        means = measured(score.mean, score.interval), measured(difference.mean, difference.interval, "+.2f")
        yield [*cells(place, f"{score.count:,}"), *means]


def _estimate(estimate: Estimate, percent: bool = False) -> Cell:
    return measured(estimate.value, estimate.interval, ".0%" if percent else ".2f")


def _agreement(comparison: Comparison) -> dict[str, Any]:
    rows = [
        [*cells(name, f"{comparison.counts[name]:,}"), *(_estimate(measures[key], key == "exact") for key in MEASURES)]
        for name, measures in comparison.attributes.items()
    ]
    matched = f"{comparison.candidates:,} candidates of {comparison.prompts:,} prompts in common with {comparison.path}"
    if not comparison.candidates:
        matched = f"Preferences on {comparison.prompts:,} prompts in {comparison.path}"
    unmatched = f"{comparison.only_first:,} only here, {comparison.only_second:,} only there."
    return {
        "title": f"{comparison.first} and {comparison.second}",
        "text": f"{matched}; {unmatched}"
        if comparison.candidates
        else f"{matched}; {comparison.only_second:,} unmatched.",
        "heads": ["Attribute", "Candidates", *HEADS.values()],
        "rows": rows,
        "pairwise": _pairwise(comparison.pairwise, comparison) if comparison.pairwise else "",
    }


def _pairwise(pairwise: PairwiseAccuracy, comparison: Comparison) -> str:
    accuracy, decided = _estimate(pairwise.accuracy, True), _estimate(pairwise.decided, True)
    return (
        f"Of {pairwise.pairs:,} pairs of candidates ordered by {comparison.second}, {comparison.first}'s score orders "
        f"{accuracy.value} {accuracy.small} alike, its {pairwise.ties:,} ties counted as one half; without them "
        f"{decided.value} {decided.small}. Pairs not ordered by {comparison.second}: {pairwise.undecided:,}."
    )


def _calls(quality: Quality) -> str:
    if not quality.calls:
        return ""
    failed = sum(quality.failures.values())
    text = f"{quality.calls:,} calls in the ledger, {failed:,} of them failed ({failed / quality.calls:.1%})."
    if quality.usage:
        price = quality.settings.get("price")
        tokens = Tokens(quality.usage["input_tokens"], quality.usage["output_tokens"])
        text += f" Cost: {describe_tokens(tokens, Price.model_validate(price) if price else None)}."
    return text


def _sample(annotation: Annotation, quality: Quality, image_root: Path | None) -> dict[str, Any]:
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


def _facts(quality: Quality) -> list[tuple[str, list[Fact]]]:
    settings = {name: value for name, value in quality.settings.items() if name != "attribute_schema"}
    schema = [
        (attribute.name, f"{attribute.minimum:g} to {attribute.maximum:g}. {attribute.description}")
        for attribute in quality.schema.attributes
    ]
    return fact_lists([("Judge and settings", flat(settings)), (f"Attribute schema {quality.schema.name}", schema)])


def _checks() -> list[str]:
    return [
        f"an attribute has one value only, or its best value for {findings.SATURATED_SHARE:.0%} of the candidates",
        f"two attributes correlate above {findings.SAME_ATTRIBUTE}, either way",
        f"score and length correlate at {findings.LENGTH_CORRELATION} or more, either way",
        f"a place's scores, or those of the last third of the judgements against the first, are off by more than "
        f"{findings.STANDARD_ERRORS} standard errors and {findings.SMALL_SHIFT:.0%} of the score's range",
        f"more than {findings.FAILURE_RATE:.0%} of the calls failed, or {findings.TRUNCATED_RATE:.0%} were cut",
        "the file mixes judges, settings or rubrics",
    ]
