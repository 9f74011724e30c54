"""Kinds of answers that are desirable or not, each for itself."""

from __future__ import annotations

from nemo_mm_align.datasets.kinds.kind import SampleKind, image_paths
from nemo_mm_align.datasets.kinds.pairs import Pairs
from nemo_mm_align.datasets.sample import CHOSEN, REJECTED, Sample
from nemo_mm_align.schema.examples import Example, LabelledExample, PreferenceExample
from nemo_mm_align.schema.prompts import Encoder

_PAIRS = Pairs()


class LabelledAnswers(SampleKind):
    """An answer that is desirable (its role is ``chosen``, as TRL calls it) or undesirable (``rejected``), with loss on it alone.

    Pairs will do: both answers are a sample, the chosen one desirable and the rejected one undesirable.
    """

    title = "labelled answers"
    example = (LabelledExample, PreferenceExample)
    roles = (CHOSEN, REJECTED)
    sequences = 1

    def encode(self, example: Example, encoder: Encoder) -> Sample:
        """The one answer, or those of a pair."""
        if isinstance(example, PreferenceExample):
            return _PAIRS.encode(example, encoder)
        assert isinstance(example, LabelledExample)
        sequences = encoder.encode_answers(example.turns, [example.answer], example.attributes)
        return Sample(example.id, image_paths(example), sequences, roles=(CHOSEN if example.label else REJECTED,))

    def flaw(self, sample: Sample) -> tuple[str, str] | None:
        """Of a pair alone."""
        return _PAIRS.flaw(sample) if len(sample.sequences) == 2 else None
