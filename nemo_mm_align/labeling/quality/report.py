"""``annotations.html``: one self-contained page on a file of annotations."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.labeling.provenance import report_path
from nemo_mm_align.labeling.quality import findings, page, plots, tables
from nemo_mm_align.labeling.quality.collect import Quality, collect
from nemo_mm_align.labeling.quality.comparison import Comparison
from nemo_mm_align.llm.price import Price
from nemo_mm_align.llm.running.budget import describe_tokens
from nemo_mm_align.llm.running.spending import Tokens
from nemo_mm_align.reporting.page import render
from nemo_mm_align.reporting.tables import cells
from nemo_mm_align.schema.attributes import AttributeSchema

log = logging.getLogger(__name__)


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
        attribute_rows=list(tables.attribute_rows(quality)),
        correlations=plots.plot_correlations(quality),
        positions=plots.plot_positions(quality.positions) if len(quality.positions) > 1 else None,
        position_rows=list(tables.position_rows(quality)) if len(quality.positions) > 1 else [],
        agreements=[tables.agreement_section(comparison) for comparison in comparisons],
        calls_text=_calls(quality),
        failure_rows=[
            cells(kind, f"{count:,}", f"{count / quality.calls:.1%}") for kind, count in quality.failures.most_common()
        ],
        timeline=plots.plot_timeline(quality) if len(quality.timeline.blocks) > 1 else None,
        samples=[tables.sample_card(annotation, quality, image_root) for annotation in quality.samples],
        fact_lists=tables.made_of(quality),
        checks=findings.describe_checks(),
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
