"""Kinds of training samples: which examples one is made of, and which sequences, in which roles, it has.

A recipe names its kind; the length plan, the collation and the capacity counts work with any of them.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.sample import ANSWER, CANDIDATE, CHOSEN, REJECTED, Sample
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import PreferenceExample, RatedAnswers, TrainingExample

logger = logging.getLogger(__name__)

Example = TrainingExample | PreferenceExample | RatedAnswers


class SampleKind(ABC):
    """What a recipe trains on.

    Attributes:
        title: of such data, in words; what a message names them by.
        example: the record that a sample is made of.
        roles: that a sample's sequences can have, in order.
        sequences: of a usual sample, which memory and time are estimated from; 0 stands for one per role.
        attributed: prompts carry the attributes that are asked for, so that the model can be steered.
    """

    title: str
    example: type[TrainingExample] | type[PreferenceExample] | type[RatedAnswers]
    roles: tuple[str, ...]
    sequences: int = 0
    attributed: bool = False

    @property
    def usual_sequences(self) -> int:
        """Sequences of a usual sample."""
        return self.sequences or len(self.roles)

    def lacks(self, examples: Sequence[Example]) -> str | None:
        """Return what a set of the right records lacks, in words; None where it has all.

        Where prompts are to ask for attributes, examples that all ask for nothing teach no steering.
        """
        if not self.attributed:
            return None
        asking = sum(getattr(example, "attributes", None) is not None for example in examples)
        if not asking:
            return "examples with attributes; none of them has any."
        logger.info("%d of %d examples ask for attributes", asking, len(examples))
        return None

    @abstractmethod
    def encode(self, example: Example, encoder: Encoder) -> Sample:
        """Tokenise an example; raise `UserError` where its text cannot be."""

    def flaw(self, sample: Sample) -> tuple[str, str] | None:
        """Return why nothing can be learned from a sample, as a short reason and a sentence; None where something can."""
        return None


class Answers(SampleKind):
    """Conversations to imitate: one sequence, with loss on its answers."""

    title = "single answers"
    example = TrainingExample
    roles = (ANSWER,)

    def encode(self, example: Example, encoder: Encoder) -> Sample:
        """The whole conversation."""
        assert isinstance(example, TrainingExample)
        return Sample(example.id, _paths(example), [encoder.encode_example(example.turns, example.attributes)])


class AttributedAnswers(Answers):
    """The same, with the attribute values that prompts ask for; some may ask for none."""

    attributed = True


class Pairs(SampleKind):
    """A better and a worse answer to one prompt, with loss on these answers alone."""

    title = "preference pairs"
    example = PreferenceExample
    roles = (CHOSEN, REJECTED)

    def encode(self, example: Example, encoder: Encoder) -> Sample:
        """Chosen, then rejected, with the record's own reference log-probs where it has both."""
        assert isinstance(example, PreferenceExample)
        given = (example.reference_chosen_log_prob, example.reference_rejected_log_prob)
        stored = [value for value in given if value is not None]
        return Sample(
            example.id,
            _paths(example),
            encoder.encode_preference(example),
            stored if len(stored) == len(self.roles) else None,
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
            _paths(example),
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


def _paths(example: Example) -> list[Path]:
    return [Path(path) for path in example.images]


ANSWERS, ATTRIBUTED_ANSWERS, RATED_ANSWERS = Answers(), AttributedAnswers(), Candidates()
PAIRS, ATTRIBUTE_PAIRS = Pairs(), AttributePairs()


def check_kind(kind: SampleKind, examples: Sequence[Example], path: str | Path, recipe: str, build_method: str) -> None:
    """Check that data are what a recipe trains on.

    Args:
        path: of the data, for messages.
        recipe: its name.
        build_method: that makes such data, for messages.

    Raises:
        UserError: records of another kind, or a set that lacks what the recipe needs.
    """
    for example in examples:
        if not isinstance(example, kind.example):
            found = next(other.title for other in (ANSWERS, PAIRS, RATED_ANSWERS) if isinstance(example, other.example))
            wanted = f"{kind.title} (chosen and rejected)" if kind.example is PreferenceExample else kind.title
            raise UserError(f"{path}: holds {found}, but recipe={recipe} trains on {wanted}.")
    lacking = kind.lacks(examples)
    if lacking is not None:
        remedy = f"Build the set with scripts/build.py method={build_method}."
        raise UserError(f"{path}: recipe={recipe} needs {lacking} {remedy}")
