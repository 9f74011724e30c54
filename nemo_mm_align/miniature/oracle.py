"""The miniature's judge: an answer's claims compared with the truth, five attributes 0..4 by the rules written here.

It sees the prompt's truth record and the answer, never which method wrote it. The rules, for a question about an image:

verbosity     by number of words: up to 2 is 0, up to 7 is 1, up to 13 is 2, up to 22 is 3, more is 4.
complexity    the highest tier (`lexicon.TIER_OF_WORD`: 0 plain, 4 expert) that at least half of the sentences reach, a
              sentence's tier being that of its most advanced word.
coherence     4, less 1 for a missing full stop after more than two words, less 1 for a sentence said twice or an answer
              of more than 50 words, less 2 for a contradiction, less 3 times the share of sentences that cannot be
              understood (rounded up); at least 0. An empty answer or one without any understandable sentence is 0.
correctness   4 where the answer asked for is right and no claim is false; 3 with one false claim about things that are
              there, 2 with more or with an invented thing; 1 where the answer contradicts itself about what was asked,
              or is wrong beside at least one other true claim; 0 where it is wrong or nothing is claimed. Where what
              was asked stays open: 2 for true claims only, 1 for true and false ones, 0 otherwise.
helpfulness   4 where what was asked is answered rightly, nothing false beside it and coherence is at least 3; 3 where
              it is right but one of these fails; 2 where what was asked stays open beside true claims only; 1 where it
              is wrong or contradictory, 0 where nothing can be understood.

For a text instruction: 4, 4, 4 where the words are exactly those expected. Otherwise correctness is 2 where they stand
among others at the answer's start, 1 where at least half of the positions agree, else 0; helpfulness is the same, and
coherence 4 unless a word is said twice that the expected answer says once (2), or nothing is said (0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judge import JudgeReply, JudgeRequest
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.miniature.answers import main_claim
from nemo_mm_align.miniature.claims import Claim, contradict, direct_answer, holds, invents
from nemo_mm_align.miniature.clauses import (
    Sentence,
    complexity_level,
    read_answer,
    say,
    verbosity_level,
    words_of,
)
from nemo_mm_align.miniature.truth import NONE, Truth, truth_of
from nemo_mm_align.schema.attributes import AttributeSchema

RULES = "miniature-2"
"""Version of the rules above; change it whenever a rating can change."""

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_MOST_WORDS = 50


@dataclass(frozen=True)
class Reading:
    """What an answer to an image question says: its sentences, its claims, and its answers to what was asked."""

    sentences: tuple[Sentence, ...]
    claims: tuple[Claim, ...]
    answers: frozenset[str]
    contradictory: bool

    @property
    def answer(self) -> str | None:
        """The one answer to what was asked, or None where it stays open or is contradictory."""
        return next(iter(self.answers)) if len(self.answers) == 1 else None


def read(text: str, truth: Truth) -> Reading:
    """Read the claims of an answer to an image question."""
    sentences = tuple(read_answer(text))
    claims = tuple(claim for sentence in sentences for claim in sentence.claims or ())
    answers = frozenset(answer for claim in claims if (answer := direct_answer(claim, truth.question)) is not None)
    return Reading(sentences, claims, answers, contradict(list(claims), truth.question))


def coherence(text: str, reading: Reading) -> int:
    """Coherence 0..4 by the rule in the module's docstring."""
    sentences = reading.sentences
    unclear = sum(sentence.claims is None for sentence in sentences)
    if unclear == len(sentences):
        return 0
    words = words_of(text)
    lapses = int(len(words) > 2 and not text.rstrip().endswith("."))
    lapses += int(len({sentence.words for sentence in sentences}) < len(sentences) or len(words) > _MOST_WORDS)
    lapses += 2 * int(reading.contradictory)
    return max(0, 4 - lapses - math.ceil(3 * unclear / len(sentences)))


def correctness(truth: Truth, reading: Reading) -> int:
    """Correctness 0..4 by the rule in the module's docstring."""
    false = [claim for claim in reading.claims if not holds(claim, truth)]
    others = [claim for claim in reading.claims if direct_answer(claim, truth.question) is None and holds(claim, truth)]
    if len(reading.answers) > 1:
        return 1
    if reading.answer is None:
        return (1 if false else 2) if others else 0
    if reading.answer != truth.expected:
        return 1 if others else 0
    if not false:
        return 4
    return 3 if len(false) == 1 and not invents(false[0], truth) else 2


def helpfulness(truth: Truth, reading: Reading, correct: int, coherent: int) -> int:
    """Helpfulness 0..4 by the rule in the module's docstring."""
    if not reading.claims:
        return 0
    if reading.answer is not None and reading.answer == truth.expected:
        return 4 if correct == 4 and coherent >= 3 else 3
    return 2 if not reading.answers and correct == 2 else 1


def _rate_text(text: str, truth: Truth) -> tuple[int, int, int]:
    said, expected = words_of(text), words_of(truth.expected)
    if not said:
        return 0, 0, 0
    if said == expected:
        return 4, 4, 4
    agree = sum(left == right for left, right in zip(said, expected, strict=False))
    correct = 2 if said[: len(expected)] == expected else int(2 * agree >= len(expected))
    stutters = any(said.count(word) > max(1, expected.count(word)) for word in said)
    return correct, correct, 2 if stutters else 4


def rate(text: str, truth: Truth) -> dict[str, int]:
    """Rate one answer on the five attributes, 0..4 each."""
    if truth.question.kind == "text":
        helpful, correct, coherent = _rate_text(text, truth)
    else:
        reading = read(text, truth)
        coherent, correct = coherence(text, reading), correctness(truth, reading)
        helpful = helpfulness(truth, reading, correct, coherent)
    values = (helpful, correct, coherent, complexity_level(text), verbosity_level(text))
    return dict(zip(ATTRIBUTES, values, strict=True))


def text_ok(text: str, truth: Truth) -> bool:
    """Whether a text instruction is answered with exactly the words expected."""
    return words_of(text) == words_of(truth.expected)


def yes_no_correct(text: str, truth: Truth) -> bool | None:
    """Whether the answer's one yes or no is right; None where the question is no yes/no question."""
    return read(text, truth).answer == truth.expected if truth.is_yes_no else None


def claims_presence(text: str, truth: Truth) -> bool | None:
    """Whether an answer speaks of an absent object as if it were there; None where the object asked about is there."""
    if not truth.absent:
        return None
    return bool(read(text, truth).answers - {"no", NONE})


def reference_answer(truth: Truth) -> str:
    """The judge's own answer: right, one sentence, of moderate vocabulary (tier 2)."""
    if truth.question.kind == "text":
        return truth.expected
    sentence = say(main_claim(truth.question, truth.expected), 2, short=False, chart=truth.scene.source == "chart")
    return f"{truth.expected}, {sentence}." if truth.is_yes_no else f"{sentence}."


class OracleJudge:
    """The rules above behind the judges' interface.

    Args:
        schema: must consist of the five attributes above, whole numbers 0..4.

    Raises:
        UserError: the schema asks for something that the rules do not rate.
    """

    name = "oracle"
    reads_metadata = True
    max_output_tokens = 0

    def __init__(self, schema: AttributeSchema) -> None:
        self.schema = schema
        for attribute in schema.attributes:
            ranged = (attribute.minimum, attribute.maximum, attribute.integer) == (0, 4, True)
            if attribute.name not in ATTRIBUTES or not ranged:
                raise UserError(
                    f"the oracle cannot rate {attribute.name!r}: it knows {', '.join(ATTRIBUTES)}, "
                    "whole numbers 0 to 4. Use attribute_schema=helpsteer, or another judge."
                )

    @property
    def settings(self) -> Mapping[str, Any]:
        """The version of the rules."""
        return {"rules": RULES}

    def judge(self, request: JudgeRequest) -> JudgeReply:
        """Rate all candidates; a prompt without truth is a `CallFailure` of kind ``bad_request``."""
        try:
            truth = truth_of(request.prompt)
        except UserError as error:
            raise CallFailure("bad_request", str(error)) from None
        rated = [rate(text, truth) for text in request.candidates]
        return JudgeReply(
            ratings=tuple({name: float(values[name]) for name in self.schema.names} for values in rated),
            reasoning=("",) * len(rated),
            reference_answer=reference_answer(truth) if request.want_reference else None,
        )
