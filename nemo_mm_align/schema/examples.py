"""Records of training sets: what is imitated, preferred, labelled, rated, or weighed under what was asked for."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, FiniteFloat, StrictBool, model_validator

from nemo_mm_align.schema.records import Conversation, Record


class TrainingExample(Conversation):
    """A conversation to imitate; loss on assistant turns. The last user turn carries `attributes`, if any (SteerLM)."""

    last_speaker = "assistant"

    attributes: dict[str, float] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class PreferenceExample(Conversation):
    """A prompt with a better and a worse answer. Reference log-probs are sums over answer tokens, in nats.

    `attributes` are asked for, if any; `flip_attributes` are other values under which the worse answer is the better one.
    Scores and ratings say by how much: a score is one number, ratings are values of a schema's attributes.
    """

    last_speaker = "user"

    chosen: str
    rejected: str
    attributes: dict[str, float] | None = None
    flip_attributes: dict[str, float] | None = None
    chosen_score: float | None = None
    rejected_score: float | None = None
    chosen_ratings: dict[str, FiniteFloat] | None = None
    rejected_ratings: dict[str, FiniteFloat] | None = None
    reference_chosen_log_prob: float | None = None
    reference_rejected_log_prob: float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _flip_line_differs(self) -> Self:
        if self.flip_attributes is not None and self.attributes in (None, self.flip_attributes):
            raise ValueError("flip_attributes must differ from attributes, which the record must have as well")
        return self

    @model_validator(mode="after")
    def _answers_differ(self) -> Self:
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are the same text; drop the pair")
        return self


class LabelledExample(Conversation):
    """A prompt with one answer and whether that is a desirable one; `attributes` are asked for, if any."""

    last_speaker = "user"

    answer: str
    label: StrictBool
    attributes: dict[str, float] | None = None
    score: float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class RatedAnswer(Record):
    """An answer and what is known of it: values of a schema's attributes, fractions too (means of several judgements)."""

    text: str
    attributes: dict[str, FiniteFloat] = Field(min_length=1)


class RatedAnswers(Conversation):
    """A prompt with all its rated answers. An attribute that an answer leaves out is missing, not zero."""

    last_speaker = "user"

    answers: tuple[RatedAnswer, ...] = Field(min_length=1)
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def attributes(self) -> None:
        """What its prompt asks for: nothing, the answers are rated as they are."""
        return None

    @model_validator(mode="after")
    def _answers_differ(self) -> Self:
        if len({answer.text for answer in self.answers}) < len(self.answers):
            raise ValueError("two answers are the same text; keep one of them, with the mean of their values")
        return self


class SteeredAnswer(Record):
    """An answer y to a prompt x that asks for attributes a, and how it fits them.

    Args:
        log_likelihood: log P(a | x, y), nats: how likely an answer like this one has what was asked for.
        log_prior: log P(y | x), nats, summed over the answer's tokens: of a model that nothing is asked of. None: the model that
            training starts from is asked.
    """

    text: str
    log_likelihood: FiniteFloat
    log_prior: FiniteFloat | None = None


class SteeredAnswers(Conversation):
    """A prompt, what it asks for, and several answers, drawn from a model that was asked for it, or any others."""

    last_speaker = "user"

    attributes: dict[str, float]
    answers: tuple[SteeredAnswer, ...] = Field(min_length=2)
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _answers_can_be_weighed(self) -> Self:
        if len({answer.text for answer in self.answers}) < len(self.answers):
            raise ValueError("two answers are the same text; keep one of them, with the mean of their values")
        if len({answer.log_prior is None for answer in self.answers}) > 1:
            raise ValueError("log_prior stands with some answers; give it with all of them, or with none")
        return self


Example = TrainingExample | PreferenceExample | LabelledExample | RatedAnswers | SteeredAnswers
"""A record of a training set."""
