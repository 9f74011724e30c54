"""An evaluation task as somebody else might write it: questions of its own in two turns, graded by a judge in its own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.judging import TaskQuestion
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.question import Answer, Question
from nemo_mm_align.schema.records import Decoding, Prompt, Turn

QUESTIONS = ("w1 w2 w3", "w4 w5", "w6 w7 w8 w9")


def grade_of(answer: Answer) -> dict[str, float]:
    """The number of a reply."""
    if not answer.text.isdigit():
        raise CallFailure("unparsable", "no number", answer.text)
    return {"grade": float(answer.text)}


class OwnTask:
    """Counts words, and has a judge grade the last answer of each.

    Args:
        count: how many of the questions are asked.
        tokens: new ones at most in each answer.
    """

    name = "own"
    measures = (
        Measure(name="grade", label="Grade"),
        Measure(name="words", label="Words", better=None),
        Measure(name="turns", label="Turns", better=None),
    )

    def __init__(self, count: int = 3, tokens: int = 6) -> None:
        self.count, self.tokens = count, tokens

    def prompts(self, images: Path) -> list[Prompt]:
        """Questions of one and of two turns, greedy and sampled."""
        return [
            Prompt(
                id=f"own/{number}",
                turns=(Turn(role="user", content=text),),
                follow_ups=("w10 w11",) if number % 2 == 0 else (),
                decoding=Decoding(temperature=0.7 if number == 1 else 0.0, max_new_tokens=self.tokens),
            )
            for number, text in enumerate(QUESTIONS[: self.count])
        ]

    def questions(self, answered: Answered) -> list[TaskQuestion]:
        """Ask for a grade."""
        last = (answered.text, *answered.follow_up_answers)[-1]
        return [TaskQuestion("grade", Question("You grade.", (f"Grade this: {last}",)), grade_of)]

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        """Count, and take the grade over."""
        return [self._scored(one) for one in answered]

    def _scored(self, one: Answered) -> ScoredAnswer:
        graded = one.judged.get("grade")
        grade = {"grade": graded.value("grade")} if graded and graded.values else {}
        return ScoredAnswer(
            prompt_id=one.prompt.id,
            answer=one.text,
            values={"words": float(len(one.text.split())), "turns": 1.0 + len(one.follow_up_answers), **grade},
            missing=() if grade else ("grade",),
            follow_up_answers=one.follow_up_answers,
        )

    def reference(self, prompt: Prompt) -> str:
        """Nobody knows."""
        return ""

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        """None."""
        return []
