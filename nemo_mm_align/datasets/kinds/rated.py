"""Kinds of answers that are rated."""

from __future__ import annotations

import math

from nemo_mm_align.datasets.kinds.kind import SampleKind, image_paths
from nemo_mm_align.datasets.sample import CANDIDATE, Sample
from nemo_mm_align.schema.examples import Example, RatedAnswers
from nemo_mm_align.schema.prompts import Encoder


class Candidates(SampleKind):
    """All answers to a prompt, a sequence each, with the attributes that are to be told of them."""

    title = "rated answers"
    example = RatedAnswers
    roles = (CANDIDATE,)
    sequences = 4  # as many as are usually sampled for a prompt (configuration of `sample`)

    def encode(self, example: Example, encoder: Encoder) -> Sample:
        """The answers in order, their values in the order of the schema; a missing one is NaN."""
        assert isinstance(example, RatedAnswers) and encoder.schema is not None
        names = encoder.schema.names
        return Sample(
            example.id,
            image_paths(example),
            encoder.encode_answers(example.turns, [answer.text for answer in example.answers]),
            roles=(CANDIDATE,) * len(example.answers),
            targets=[[answer.attributes.get(name, math.nan) for name in names] for answer in example.answers],
        )

    def flaw(self, sample: Sample) -> tuple[str, str] | None:
        """Texts that differ can be the same tokens, of which one thing alone can be told."""
        if len({tuple(sequence.ids) for sequence in sample.sequences}) == len(sample.sequences):
            return None
        return (
            "same answers",
            "two answers differ as texts, but are the same tokens; keep one of them, with the mean of their values.",
        )
