"""Sets of single answers: the judge's own, or the perfect ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.datasets.build_summary import BuildSummary
from nemo_mm_align.datasets.candidates import (
    TOLERANCE,
    check_scored,
    checked,
    metadata_of,
    random_of,
    usable_candidates,
)
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import TrainingExample
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER, Annotation, Turn


def build_sft(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema, summary: BuildSummary
) -> Iterator[TrainingExample]:
    """Pair each prompt with the judge's reference answer; prompts without one are dropped."""
    for annotation in checked(annotations, schema, summary):
        answer = (annotation.reference_answer or "").strip()
        if not answer or IMAGE_PLACEHOLDER in answer:
            summary.drop("prompt", "no reference answer" if not answer else f"{IMAGE_PLACEHOLDER} in the answer")
            continue
        yield answer_example(annotation, annotation.prompt.id, answer, {})


def build_rejection(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema, summary: BuildSummary
) -> Iterator[TrainingExample]:
    """Pair each prompt with one of its candidates that reach the threshold, drawn among their distinct texts."""
    check_scored(schema)
    threshold = schema.perfect_total if settings.threshold is None else settings.threshold
    for annotation in checked(annotations, schema, summary):
        usable = usable_candidates(annotation, settings, schema, summary)
        good = list({item.text: item for item in usable if item.score >= threshold - TOLERANCE}.values())
        if not good:
            summary.drop("prompt", f"no candidate with a score of {threshold:g}" if usable else "no usable candidate")
            continue
        pick = random_of(settings, annotation).choice(good)
        metadata = {"candidate": pick.index, "score": pick.score}
        yield answer_example(annotation, annotation.prompt.id, pick.text, metadata)


def answer_example(
    annotation: Annotation,
    example_id: str,
    answer: str,
    metadata: dict[str, Any],
    attributes: dict[str, float] | None = None,
) -> TrainingExample:
    """Return the prompt of an annotation with an answer to imitate."""
    return TrainingExample(
        id=example_id,
        images=annotation.prompt.images,
        turns=(*annotation.prompt.turns, Turn(role="assistant", content=answer)),
        attributes=attributes,
        metadata=metadata_of(annotation, metadata),
    )
