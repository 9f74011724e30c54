"""Annotations on their way into a training set: checked against the schema, their usable candidates scored."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.datasets.build_summary import BuildSummary
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER, Annotation

TOLERANCE = 1e-9
"""Scores are sums of decimal fractions: 0.3 is at least 0.1 + 0.2."""


@dataclass(frozen=True)
class Scored:
    """A usable candidate: its place among the annotation's candidates, stripped text, ratings and score."""

    index: int
    text: str
    ratings: dict[str, float]
    score: float


def check_scored(schema: AttributeSchema) -> None:
    """Raise `UserError` where the schema names no attributes to rank candidates by."""
    if not schema.score:
        raise UserError(
            f"schema {schema.name!r} has an empty score, so no answer is better than another; name the attributes "
            f"that candidates are ranked by, for example score: [{schema.names[0]}]."
        )


def checked(annotations: Iterable[Annotation], schema: AttributeSchema, summary: BuildSummary) -> Iterator[Annotation]:
    """Yield the annotations, each prompt once, all of this schema, with ratings in its ranges."""
    seen = set()
    for annotation in annotations:
        prompt_id = annotation.prompt.id
        if annotation.schema_fingerprint != schema.fingerprint:
            raise UserError(
                f"prompt {prompt_id} was annotated by schema {annotation.schema_name!r} "
                f"({annotation.schema_fingerprint}), not by {schema.name!r} ({schema.fingerprint}) as it is now; "
                "choose that schema with attribute_schema=..., or label again."
            )
        if prompt_id in seen:
            raise UserError(f"prompt {prompt_id} is annotated twice; keep one of its annotations.")
        seen.add(prompt_id)
        _check_ratings(annotation, schema)
        summary.see(annotation)
        yield annotation


def _check_ratings(annotation: Annotation, schema: AttributeSchema) -> None:
    """Raise `UserError` for ratings that are none of this schema: methods that need no score would pass them over."""
    for number, candidate in enumerate(annotation.candidates):
        try:
            schema.check(candidate.ratings)
        except UserError as error:
            raise UserError(
                f"prompt {annotation.prompt.id}, candidate {number}: {error} Correct that line, or label "
                "again: annotations are written anew from the ledger."
            ) from None


def usable_candidates(
    annotation: Annotation, settings: BuildSettings, schema: AttributeSchema, summary: BuildSummary
) -> list[Scored]:
    """Return the candidates that can be trained on, in order; the others are counted as dropped."""
    usable = []
    for index, candidate in enumerate(annotation.candidates):
        text = candidate.text.strip()
        if not text:
            summary.drop("candidate", "empty")
        elif settings.drop_truncated and candidate.finish_reason == "length":
            summary.drop("candidate", "cut at the token limit")
        elif IMAGE_PLACEHOLDER in text:
            summary.drop("candidate", f"{IMAGE_PLACEHOLDER} in the answer")
        else:
            ratings = _ratings(annotation, index, schema)
            usable.append(Scored(index, text, ratings, schema.total(ratings)))
    return usable


def _ratings(annotation: Annotation, index: int, schema: AttributeSchema) -> dict[str, float]:
    try:
        return schema.check(annotation.candidates[index].ratings)
    except UserError as error:
        raise UserError(f"prompt {annotation.prompt.id}, candidate {index}: {error} Label it again.") from None


def random_of(settings: BuildSettings, annotation: Annotation) -> random.Random:
    """Return a source of choices that depends on the seed and the prompt's id alone."""
    return random.Random(f"{settings.seed}:{annotation.prompt.id}")


def metadata_of(annotation: Annotation, extra: dict[str, Any]) -> dict[str, Any]:
    """Return where an example comes from."""
    return {"prompt_id": annotation.prompt.id, "judge": annotation.judge, **extra}
