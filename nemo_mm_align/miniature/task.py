"""The miniature as an evaluation task: its rules know the truth behind each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.tasks.rated import BY_SOURCE, CORRECT, JUDGED, WORDS, score_measure, values_of
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.evaluation.wording import label_of
from nemo_mm_align.miniature.judged import JudgedAnswer, judge_answer
from nemo_mm_align.miniature.truth import truth_of
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt

HALLUCINATION = Measure(
    name="hallucination",
    label="Hallucination",
    share=True,
    better="lower",
    about="Hallucination: questions about something that is not in the image, answered as if it were (lower is better).",
)
YES_NO = Measure(name="yes_no_accuracy", label="Yes/no accuracy", share=True)
TEXT = Measure(
    name="text_score", label="Text", share=True, about="Text: instructions without an image that were followed."
)
KINDS = {"image": "image prompts", "text": "text instructions"}
ABSENT = "Asks about something that is not in the image."
_WORTH_A_WORD = 0.02


class MiniatureTask:
    """Scores answers to prompts of the miniature world.

    Args:
        schema: the attributes that are judged.
    """

    name = "miniature"

    def __init__(self, schema: AttributeSchema) -> None:
        self.schema = schema
        self.measures = (score_measure(schema), CORRECT, HALLUCINATION, YES_NO, TEXT, WORDS, JUDGED, BY_SOURCE)

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        """Judge by the rules; `UserError` for a prompt that carries no truth."""
        return [self.scored(judge_answer(one.prompt, one.text, one.num_tokens), one.asked) for one in answered]

    def reference(self, prompt: Prompt) -> str:
        """Return what the truth says."""
        return truth_of(prompt).expected

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        """Name methods whose hallucinations went down since they say no more often."""
        return [
            f"{label_of(name)} hallucinates less than the base, but is no better at yes/no questions as a whole: "
            "part of that is a shift towards no."
            for name, result in methods.items()
            if _difference(result, HALLUCINATION.name, 0) < -_WORTH_A_WORD and _difference(result, YES_NO.name, 1) <= 0
        ]

    def scored(self, judged: JudgedAnswer, asked: Mapping[str, float] | None = None) -> ScoredAnswer:
        """Return a judged answer with its values."""
        return ScoredAnswer(
            prompt_id=judged.prompt_id,
            kind=KINDS[judged.kind],
            answer=judged.answer,
            source=judged.source,
            values=self._values(judged),
            ratings=judged.ratings,
            num_words=judged.num_words,
            num_tokens=judged.num_tokens,
            notes=(ABSENT,) if judged.absent else (),
            asked=dict(asked) if asked else None,
        )

    def _values(self, judged: JudgedAnswer) -> dict[str, float]:
        if judged.kind == "text":
            return {TEXT.name: float(bool(judged.text_ok))}
        values = values_of(judged.ratings, self.schema, judged.prompt_id, judged.source)
        values[WORDS.name] = judged.num_words
        if judged.claims_presence is not None:
            values[HALLUCINATION.name] = float(judged.claims_presence)
        if judged.yes_no_correct is not None:
            values[YES_NO.name] = float(judged.yes_no_correct)
        return values


def _difference(result: MethodResult, name: str, absent: float) -> float:
    found = result.measurements.get(name)
    return absent if found is None or found.minus_base is None else found.minus_base
