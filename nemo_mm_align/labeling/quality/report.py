"""``annotations.html``: one self-contained page on a file of annotations."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from nemo_mm_align.atomic import write_text
from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.errors import UserError
from nemo_mm_align.evaluation.page import STYLE
from nemo_mm_align.images import load_image
from nemo_mm_align.labeling.judge import Price
from nemo_mm_align.labeling.provenance import report_path
from nemo_mm_align.labeling.quality import findings, page, plots
from nemo_mm_align.labeling.quality.agreement import MEASURES, Estimate, PairwiseAccuracy
from nemo_mm_align.labeling.quality.collect import LENGTH, SCORE, Quality, collect
from nemo_mm_align.labeling.quality.comparison import Comparison
from nemo_mm_align.labeling.quality.statistics import Mean
from nemo_mm_align.labeling.running.budget import describe_tokens
from nemo_mm_align.labeling.running.spending import Tokens
from nemo_mm_align.records import IMAGE_PLACEHOLDER, Annotation, resolve_image

log = logging.getLogger(__name__)

THUMBNAIL_EDGE = 264
"""Twice the width at which the page shows an image, in pixels."""
SHOWN_TEXT = 1500
HEADS = {"pearson": "Pearson", "spearman": "Spearman", "kappa": "Kappa", "mad": "Mean |difference|", "exact": "Equal"}

Cell = dict[str, str]


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
    write_text(path, render(quality, found, image_root, comparisons))
    log.info("quality of the annotations: %s", path)
    return found


def render(
    quality: Quality, found: Sequence[str], image_root: Path | None = None, comparisons: Sequence[Comparison] = ()
) -> str:
    """Return the page; an image that does not open is left out."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(page.TEMPLATE).render(
        title=f"Annotations: {quality.path.name}",
        style=STYLE,
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
            _cells(kind, f"{count:,}", f"{count / quality.calls:.1%}") for kind, count in quality.failures.most_common()
        ],
        timeline=plots.plot_timeline(quality) if len(quality.timeline.blocks) > 1 else None,
        samples=[_sample(annotation, quality, image_root) for annotation in quality.samples],
        fact_lists=_facts(quality),
        checks=_checks(),
    )


def _cells(*values: str) -> list[Cell]:
    return [{"value": value, "small": ""} for value in values]


def _number(value: float | None, digits: int = 2, sign: str = "") -> str:
    return "–" if value is None or value != value else f"{value:{sign}.{digits}f}"


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
        yield _cells(name, _number(quality.correlations.mean(name)), best, _number(correlation, sign="+"))


def _position_rows(quality: Quality) -> Iterator[list[Cell]]:
    for place, (difference, score) in enumerate(zip(quality.positions, quality.position_scores, strict=True), start=1):
        row = _cells(str(place), f"{score.count:,}", _number(score.mean), _number(difference.mean, sign="+"))
        row[2]["small"], row[3]["small"] = _bracket(score), _bracket(difference, "+")
        yield row


def _bracket(mean: Mean, sign: str = "") -> str:
    return f"[{mean.interval[0]:{sign}.2f}, {mean.interval[1]:{sign}.2f}]" if mean.interval else ""


def _estimate(estimate: Estimate, percent: bool = False) -> Cell:
    if estimate.value is None:
        return {"value": "–", "small": ""}
    form = ".0%" if percent else ".2f"
    known = estimate.low is not None and estimate.high is not None
    return {
        "value": f"{estimate.value:{form}}",
        "small": f"[{estimate.low:{form}}, {estimate.high:{form}}]" if known else "",
    }


def _agreement(comparison: Comparison) -> dict[str, Any]:
    rows = [
        [*_cells(name, f"{comparison.counts[name]:,}"), *(_estimate(measures[key], key == "exact") for key in MEASURES)]
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
        f"{accuracy['value']} {accuracy['small']} alike, its {pairwise.ties:,} ties counted as one half; without them "
        f"{decided['value']} {decided['small']}. Pairs not ordered by {comparison.second}: {pairwise.undecided:,}."
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
    question = annotation.prompt.turns[-1].content.replace(IMAGE_PLACEHOLDER, "").strip()
    places = {index: place for place, index in enumerate(annotation.order, start=1)}
    answers = [
        {
            "place": str(places.get(index, index + 1)),
            "text": candidate.text[:SHOWN_TEXT] or "(empty)",
            "scores": ", ".join(f"{name} {value:g}" for name, value in quality.schema.check(candidate.ratings).items()),
            "reasoning": candidate.reasoning[:SHOWN_TEXT],
        }
        for index, candidate in enumerate(annotation.candidates)
    ]
    images = (_thumbnail(image, quality.path, image_root) for image in annotation.prompt.images)
    return {
        "images": [image for image in images if image],
        "question": question[:SHOWN_TEXT],
        "reference": (annotation.reference_answer or "")[:SHOWN_TEXT],
        "answers": sorted(answers, key=lambda answer: int(answer["place"])),
    }


def _thumbnail(image: str, annotations: Path, image_root: Path | None) -> str | None:
    try:
        picture = load_image(resolve_image(image, annotations, image_root))
    except UserError as error:
        log.warning("a sample's image is left out of the report: %s", error)
        return None
    picture.thumbnail((THUMBNAIL_EDGE, THUMBNAIL_EDGE))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _facts(quality: Quality) -> list[tuple[str, list[tuple[str, str]]]]:
    settings = {name: value for name, value in quality.settings.items() if name != "attribute_schema"}
    schema = [
        (attribute.name, f"{attribute.minimum:g} to {attribute.maximum:g}. {attribute.description}")
        for attribute in quality.schema.attributes
    ]
    lists = [("Judge and settings", list(_flat(settings))), (f"Attribute schema {quality.schema.name}", schema)]
    return [(heading, facts) for heading, facts in lists if facts]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


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
