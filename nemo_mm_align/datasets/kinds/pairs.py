"""Kinds of a better and a worse answer."""

from __future__ import annotations

import math

from nemo_mm_align.datasets.kinds.kind import SampleKind, image_paths
from nemo_mm_align.datasets.sample import CHOSEN, REJECTED, Sample
from nemo_mm_align.schema.examples import Example, PreferenceExample
from nemo_mm_align.schema.prompts import Encoder


class Pairs(SampleKind):
    """A better and a worse answer to one prompt, with loss on these answers alone."""

    title = "preference pairs"
    example = PreferenceExample
    roles: tuple[str, ...] = (CHOSEN, REJECTED)

    def encode(self, example: Example, encoder: Encoder) -> Sample:
        """Chosen, then rejected, with the record's own reference log-probs where it has both."""
        assert isinstance(example, PreferenceExample)
        given = (example.reference_chosen_log_prob, example.reference_rejected_log_prob)
        stored = [value for value in given if value is not None]
        return Sample(
            example.id,
            image_paths(example),
            encoder.encode_preference(example),
            stored if len(stored) == len(given) else None,
        )

    def flaw(self, sample: Sample) -> tuple[str, str] | None:
        """Texts that differ can be the same tokens."""
        chosen, rejected = sample.sequences
        if chosen.ids != rejected.ids:
            return None
        return (
            "same answers",
            "chosen and rejected differ as texts, but are the same tokens; nothing can be learned from them.",
        )


class ScoredPairs(Pairs):
    """Pairs with what is known of their answers: a score, then values in the order of the schema; a missing one is NaN."""

    title = "preference pairs with scores or ratings"

    def encode(self, example: Example, encoder: Encoder) -> Sample:
        """The sequences of the plain pair, so that both have the same reference log-probs."""
        assert isinstance(example, PreferenceExample)
        names = encoder.schema.names if encoder.schema is not None else ()
        known = ((example.chosen_score, example.chosen_ratings), (example.rejected_score, example.rejected_ratings))
        sample = super().encode(example, encoder)
        sample.targets = [
            [math.nan if score is None else score, *((ratings or {}).get(name, math.nan) for name in names)]
            for score, ratings in known
        ]
        return sample


class AttributePairs(Pairs):
    """Pairs whose prompts ask for attributes, or for none, and where a record has one, the same answers under a flip line."""

    title = "preference pairs under attributes"
    sequences = 4
    attributed = True

    def encode(self, example: Example, encoder: Encoder) -> Sample:
        """Chosen and rejected under the line; then, with a flip line, rejected and chosen under that one."""
        assert isinstance(example, PreferenceExample)
        sample = super().encode(example, encoder)
        if example.flip_attributes is None:
            return sample
        flipped = example.model_copy(
            update={"chosen": example.rejected, "rejected": example.chosen, "attributes": example.flip_attributes}
        )
        sequences = [*sample.sequences, *encoder.encode_preference(flipped)]
        return Sample(sample.id, sample.image_paths, sequences, roles=(CHOSEN, REJECTED, CHOSEN, REJECTED))

    def flaw(self, sample: Sample) -> tuple[str, str] | None:
        """Of the answers under the line; those under the flip line are the same ones."""
        return super().flaw(Sample(sample.id, sequences=sample.sequences[:2]))
