"""Sets of single answers that are desirable or undesirable by their scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.datasets.build_summary import BuildSummary
from nemo_mm_align.datasets.candidates import TOLERANCE, Scored, check_scored, checked, metadata_of, usable_candidates
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import LabelledExample
from nemo_mm_align.schema.records import Annotation


def build_labelled(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema, summary: BuildSummary
) -> Iterator[LabelledExample]:
    """Take every candidate that is desirable, with a score of at least `threshold`, or undesirable, below `undesirable_below`.

    A text that was scored more than once counts once, where its labels agree.

    Raises:
        UserError: `undesirable_below` is above `threshold`; or what `checked` refuses.
    """
    check_scored(schema)
    threshold, below = _limits(settings, schema)
    for annotation in checked(annotations, schema, summary):
        by_text: dict[str, list[Scored]] = {}
        for item in usable_candidates(annotation, settings, schema, summary):
            by_text.setdefault(item.text, []).append(item)
        for scored in by_text.values():
            labels = {_label(item, threshold, below) for item in scored}
            if len(scored) > 1:
                reason = "same text as another" if len(labels) == 1 else "same text as another, scored otherwise"
                summary.drop("candidate", reason, len(scored) - (len(labels) == 1))
            if len(labels) > 1:
                continue
            label = labels.pop()
            if label is None:
                summary.drop("candidate", f"a score from {below:g} to below {threshold:g}")
            else:
                yield _example(annotation, scored[0], label)


def _limits(settings: BuildSettings, schema: AttributeSchema) -> tuple[float, float]:
    threshold = schema.good_total if settings.threshold is None else settings.threshold
    below = threshold if settings.undesirable_below is None else settings.undesirable_below
    if below > threshold:
        raise UserError(
            f"method.undesirable_below={below:g} is above method.threshold={threshold:g}: an answer between them would be "
            "desirable and undesirable. Give at most the threshold; null takes it."
        )
    return threshold, below


def _label(item: Scored, threshold: float, below: float) -> bool | None:
    """Whether an answer is desirable; None where it is neither."""
    if item.score >= threshold - TOLERANCE:
        return True
    return False if item.score < below - TOLERANCE else None


def _example(annotation: Annotation, item: Scored, label: bool) -> LabelledExample:
    return LabelledExample(
        id=f"{annotation.prompt.id}#{item.index}",
        images=annotation.prompt.images,
        turns=annotation.prompt.turns,
        answer=item.text,
        label=label,
        score=item.score,
        metadata=metadata_of(annotation, {"candidate": item.index}),
    )
