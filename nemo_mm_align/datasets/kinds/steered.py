"""Kinds of answers to prompts that ask for attributes, each with a weight."""

from __future__ import annotations

import math

from nemo_mm_align.datasets.kinds.kind import SampleKind, image_paths
from nemo_mm_align.datasets.sample import CANDIDATE, Sample
from nemo_mm_align.schema.examples import Example, SteeredAnswers
from nemo_mm_align.schema.prompts import Encoder

LOG_LIKELIHOOD, LOG_PRIOR = range(2)
"""Places of a sequence's targets: log P(a | x, y), and log P(y | x) or NaN, where the reference is to tell it."""


class WeighedAnswers(SampleKind):
    """Several answers to one prompt under its line, a sequence each, with what says how they fit it."""

    title = "weighed answers under attributes"
    example = SteeredAnswers
    roles = (CANDIDATE,)
    sequences = 10  # as many as the method's paper samples for a prompt
    attributed = True

    def encode(self, example: Example, encoder: Encoder) -> Sample:
        """The answers under the line, in order; where their log-priors are not given, without it too, for the reference."""
        assert isinstance(example, SteeredAnswers)
        texts = [answer.text for answer in example.answers]
        unknown = any(answer.log_prior is None for answer in example.answers)
        return Sample(
            example.id,
            image_paths(example),
            encoder.encode_answers(example.turns, texts, example.attributes),
            roles=(CANDIDATE,) * len(texts),
            targets=[
                [answer.log_likelihood, math.nan if answer.log_prior is None else answer.log_prior]
                for answer in example.answers
            ],
            prior_sequences=encoder.encode_answers(example.turns, texts) if unknown else [],
        )

    def flaw(self, sample: Sample) -> tuple[str, str] | None:
        """Texts that differ can be the same tokens: one answer, whose weight would be split."""
        if len({tuple(sequence.ids) for sequence in sample.sequences}) == len(sample.sequences):
            return None
        return "same answers", "two answers differ as texts, but are the same tokens; keep one of them."
