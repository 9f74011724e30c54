"""Answers of the miniature, judged by its rules: with everything that its measures and its base's criteria go by."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from nemo_mm_align.miniature.clauses import words_of
from nemo_mm_align.miniature.oracle import claims_presence, rate, text_ok, yes_no_correct
from nemo_mm_align.miniature.truth import truth_of
from nemo_mm_align.schema.records import Prompt, Record


class JudgedAnswer(Record):
    """One answer to one prompt.

    Args:
        prompt_id: `Prompt.id`.
        kind: ``image`` (judged by attributes) or ``text`` (an instruction that a rule can check).
        answer: the text as it was generated.
        source: where the prompt comes from, ``easy_vqa`` or ``charts``.
        question_type: for example ``exists``, ``colour``, ``count``, ``value``, ``compare``.
        absent: the question asks about an object that is not in the image.
        claims_presence: for questions about absent objects: the answer speaks of the object as if it were there
            (a hallucination). None where the question is not one of those.
        yes_no_correct: for yes/no questions: whether the answer's yes or no is right (an answer with neither is
            wrong). None for other questions.
        ratings: the value of every attribute, by name. Empty for ``text``.
        num_words: length of the answer in words.
        num_tokens: length in tokens, if the generator told it.
        text_ok: for ``text``: whether the rule holds. None for ``image``.
    """

    prompt_id: str
    kind: Literal["image", "text"]
    answer: str = ""
    source: str = ""
    question_type: str = ""
    absent: bool = False
    claims_presence: bool | None = None
    yes_no_correct: bool | None = None
    ratings: dict[str, float] = {}
    num_words: int = Field(default=0, ge=0)
    num_tokens: int | None = None
    text_ok: bool | None = None

    @model_validator(mode="after")
    def _consistent(self) -> JudgedAnswer:
        if self.absent != (self.claims_presence is not None):
            raise ValueError("claims_presence must be given exactly for questions about absent objects")
        if (self.kind == "text") != (self.text_ok is not None):
            raise ValueError("text_ok must be given exactly for text instructions")
        if (self.kind == "image") != bool(self.ratings):
            raise ValueError("ratings must be given exactly for questions about images")
        return self


def judge_answer(prompt: Prompt, answer: str, num_tokens: int | None = None) -> JudgedAnswer:
    """Judge one answer by the oracle's rules.

    Raises:
        UserError: the prompt carries no truth.
    """
    truth = truth_of(prompt)
    is_text = truth.question.kind == "text"
    return JudgedAnswer(
        prompt_id=prompt.id,
        kind="text" if is_text else "image",
        answer=answer,
        source=truth.scene.source,
        question_type=truth.question.task if is_text else truth.question.kind,
        absent=truth.absent,
        claims_presence=claims_presence(answer, truth),
        yes_no_correct=yes_no_correct(answer, truth),
        ratings={} if is_text else {name: float(value) for name, value in rate(answer, truth).items()},
        num_words=len(words_of(answer)),
        num_tokens=num_tokens,
        text_ok=text_ok(answer, truth) if is_text else None,
    )
