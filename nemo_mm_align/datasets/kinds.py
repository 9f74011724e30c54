"""Kinds of training samples: which examples one is made of, and which sequences, in which roles, it has.

A recipe names its kind; the length plan, the collation and the capacity counts work with any of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

from nemo_mm_align.datasets.sample import ANSWER, CANDIDATE, CHOSEN, REJECTED, Sample
from nemo_mm_align.errors import UserError
from nemo_mm_align.prompts import Encoder
from nemo_mm_align.records import PreferenceExample, RatedAnswers, TrainingExample

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

    def lacks(self, example: Example) -> str | None:
        """Return what an example of the right record lacks, in words; None where it has all."""
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
    """The same, each with the attribute values that its prompt asks for."""

    attributed = True

    def lacks(self, example: Example) -> str | None:
        """An example without values would teach to answer unasked."""
        if example.attributes:
            return None
        return f"attributes with every example; {example.id} has none."


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


ANSWERS, ATTRIBUTED_ANSWERS, PAIRS, RATED_ANSWERS = Answers(), AttributedAnswers(), Pairs(), Candidates()


def check_kind(kind: SampleKind, examples: Iterable[Example], path: str | Path, recipe: str, build_method: str) -> None:
    """Check that data are what a recipe trains on.

    Args:
        path: of the data, for messages.
        recipe: its name.
        build_method: that makes such data, for messages.

    Raises:
        UserError: records of another kind, or one that lacks what the recipe needs.
    """
    for example in examples:
        if not isinstance(example, kind.example):
            found = next(other.title for other in (ANSWERS, PAIRS, RATED_ANSWERS) if isinstance(example, other.example))
            wanted = f"{kind.title} (chosen and rejected)" if kind.example is PreferenceExample else kind.title
            raise UserError(f"{path}: holds {found}, but recipe={recipe} trains on {wanted}.")
        lacking = kind.lacks(example)
        if lacking is not None:
            remedy = f"Build the set with scripts/build.py method={build_method}."
            raise UserError(f"{path}: recipe={recipe} needs {lacking} {remedy}")
