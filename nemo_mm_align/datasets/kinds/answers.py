"""Kinds of single answers."""

from __future__ import annotations

from nemo_mm_align.datasets.kinds.kind import SampleKind, image_paths
from nemo_mm_align.datasets.sample import ANSWER, Sample
from nemo_mm_align.schema.examples import Example, TrainingExample
from nemo_mm_align.schema.prompts import Encoder


class Answers(SampleKind):
    """Conversations to imitate: one sequence, with loss on its answers."""

    title = "single answers"
    example = TrainingExample
    roles = (ANSWER,)

    def encode(self, example: Example, encoder: Encoder) -> Sample:
        """The whole conversation."""
        assert isinstance(example, TrainingExample)
        return Sample(example.id, image_paths(example), [encoder.encode_example(example.turns, example.attributes)])


class AttributedAnswers(Answers):
    """The same, with the attribute values that prompts ask for; some may ask for none."""

    attributed = True
