"""Held-out answers of the miniature, judged: what the evaluation's tables read."""

from __future__ import annotations

from nemo_mm_align.evaluation.answers import JudgedAnswer
from nemo_mm_align.miniature.clauses import words_of
from nemo_mm_align.miniature.oracle import claims_presence, rate, text_ok, yes_no_correct
from nemo_mm_align.miniature.truth import truth_of
from nemo_mm_align.records import Prompt


def judge_answer(prompt: Prompt, answer: str, num_tokens: int | None = None) -> JudgedAnswer:
    """Judge one answer by the oracle's rules (an `evaluation.answers.AnswerJudge`).

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
