"""Attribute values drawn for each prompt among those that good answers were seen to have (Dong et al., arXiv 2310.05344, step 4).

A conditioned model that is asked for them answers as varied, and as well, as what was judged; these answers are judged again,
and a second round of training learns from them.
"""

from __future__ import annotations

import random
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.candidates import TOLERANCE
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Annotation, read_records


class DrawnAttributes:
    """Draws by seed and prompt id alone, each combination as likely as any other.

    Args:
        path: annotations, made with the same attribute schema.
        schema: of the model that is asked.
        seed: of the draws.

    Raises:
        UserError: no such file, annotations of another schema, or no answer in them that reaches the schema's good score.
    """

    def __init__(self, path: Path, schema: AttributeSchema, seed: int) -> None:
        if not schema.score:
            raise UserError(f"draw_from: schema {schema.name!r} has an empty score, so no answer is a good one.")
        self.seed = seed
        found = {}
        for annotation in read_records(path, Annotation):
            if annotation.schema_fingerprint != schema.fingerprint:
                raise UserError(
                    f"{path}: prompt {annotation.prompt.id} was annotated by schema {annotation.schema_name!r} "
                    f"({annotation.schema_fingerprint}), but the model asks by {schema.name!r} ({schema.fingerprint})."
                )
            for number, candidate in enumerate(annotation.candidates):
                ratings = _ratings(path, annotation, number, schema)
                if candidate.finish_reason != "length" and schema.total(ratings) >= schema.good_total - TOLERANCE:
                    values = schema.check_asked(ratings)
                    found[tuple(values.values())] = values
        if not found:
            raise UserError(f"{path}: no answer has a score of {schema.good_total:g}; there is nothing to draw from.")
        self.combinations = [found[key] for key in sorted(found)]

    def of(self, prompt_id: str) -> dict[str, float]:
        """Return what a prompt is asked for."""
        return random.Random(f"{self.seed}:attributes:{prompt_id}").choice(self.combinations)


def _ratings(path: Path, annotation: Annotation, number: int, schema: AttributeSchema) -> dict[str, float]:
    try:
        return schema.check(annotation.candidates[number].ratings)
    except UserError as error:
        raise UserError(f"{path}: prompt {annotation.prompt.id}, candidate {number}: {error} Label it again.") from None
