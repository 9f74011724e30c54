"""What the metrics read: one `JudgedAnswer` per answered held-out prompt, wherever its truth came from.

A world (the miniature's oracle, or a judge of published benchmarks) fills these; `metrics.py` only counts.
"""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import Field, model_validator

from nemo_mm_align.records import Prompt, Record


class JudgedAnswer(Record):
    """One answer to one held-out prompt, with everything the tables need to know of it.

    Args:
        prompt_id: `Prompt.id`.
        kind: ``image`` (judged by attributes) or ``text`` (an instruction that a rule can check).
        answer: the text as it was generated.
        source: where the prompt comes from, for example ``easy_vqa`` or ``charts``.
        question_type: for example ``exists``, ``colour``, ``count``, ``value``, ``compare``; free text of the source.
        absent: the question asks about an object that is not in the image.
        claims_presence: for questions about absent objects: the answer speaks of the object as if it were there
            (a hallucination). None where the question is not one of those.
        yes_no_correct: for yes/no questions: whether the answer's yes or no is right (an answer with neither is
            wrong). None for other questions.
        ratings: the judge's value of every attribute of the schema, by name. Empty for ``text``.
        num_words: length of the answer in words.
        num_tokens: length in tokens, if the generator told it.
        text_ok: for ``text``: whether the rule holds. None for ``image``.
        asked: the attribute values the answer was asked for, if it was steered; the metrics set it, not the judge.
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
    asked: dict[str, float] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> JudgedAnswer:
        if self.absent != (self.claims_presence is not None):
            raise ValueError("claims_presence must be given exactly for questions about absent objects")
        if (self.kind == "text") != (self.text_ok is not None):
            raise ValueError("text_ok must be given exactly for text instructions")
        if (self.kind == "image") != bool(self.ratings):
            raise ValueError("ratings must be given exactly for questions about images")
        return self


class AnswerJudge(Protocol):
    """Judges one answer of a held-out prompt against the truth in `prompt.metadata`."""

    def __call__(self, prompt: Prompt, answer: str, num_tokens: int | None = None) -> JudgedAnswer:
        """Return the judged answer; raise `UserError` if the prompt carries no truth."""
        ...
