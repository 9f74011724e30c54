"""Questions of one's own, and a judge with a rubric of one's own: any text with places for question, answer and reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.judging import TaskQuestion
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.sources import SourceFile, source_file
from nemo_mm_align.evaluation.tasks.judge_texts import fields_of, fill
from nemo_mm_align.evaluation.tasks.judged import (
    CATEGORY,
    SEVERAL,
    SPREAD,
    item_of,
    judged_cautions,
    judged_of,
    nearest_reply,
    several_values,
    spread_values,
    unrated_answer,
)
from nemo_mm_align.evaluation.tasks.own_questions import OwnQuestion, read_own
from nemo_mm_align.evaluation.tasks.rated import WORDS
from nemo_mm_align.evaluation.tasks.ratings import RATING, Which, bracketed, json_score
from nemo_mm_align.evaluation.tasks.scored import scored_answer
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.llm.question import Question, QuestionImage
from nemo_mm_align.schema.records import Decoding, Prompt

KEY = "rubric"
PLACES = ("question", "answer", "reference")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "explanation": {"type": "string", "description": "why, in a few sentences"},
        "score": {"type": "number", "description": "the rating"},
    },
    "required": ["explanation", "score"],
}


class OwnRubricTask:
    """Has a judge rate answers to questions of one's own. An unrated answer is missing.

    Args:
        data: JSONL of questions, see `read_own`.
        rubric: text file of what the judge is told, with ``{question}``, ``{answer}`` and, if it likes, ``{reference}``.
        lowest, highest: ends of its scale.
        reply: ``brackets``: a rating as ``[[7]]`` in free text; ``json``: an object with explanation and score.
        rating: which of several ratings in brackets counts.
        instructions: the judge's system turn.
        show_images: whether the judge sees the question's images.
        temperature, max_new_tokens: of the model's answers; None: the run's.
        name: what the task's figures are called.
    """

    measures: tuple[Measure, ...]

    def __init__(
        self,
        data: str,
        rubric: str,
        lowest: float = 1,
        highest: float = 10,
        reply: Literal["brackets", "json"] = "brackets",
        rating: Which = "first",
        instructions: str = "",
        show_images: bool = True,
        temperature: float | None = None,
        max_new_tokens: int | None = None,
        name: str = "own_rubric",
    ) -> None:
        if not lowest < highest:
            raise UserError(
                f"task.lowest={lowest:g} is not below task.highest={highest:g}. Give the ends of the scale."
            )
        if reply == "json" and rating != "first":
            raise UserError(
                f"task.rating={rating} is about ratings in brackets; task.reply=json has one number. Remove it."
            )
        self.name, self._data, self._rubric, self._instructions = name, Path(data), Path(rubric), instructions
        self._show_images, self._schema = show_images, SCHEMA if reply == "json" else None
        self._decoding = Decoding(temperature=temperature, max_new_tokens=max_new_tokens)
        self._read = json_score(lowest, highest) if reply == "json" else bracketed(lowest, highest, rating)
        score = Measure(name="score", label="Score", about=f"Score: as the judge rated by {self._rubric.name}.")
        self.measures = (score, WORDS, SEVERAL, SPREAD, CATEGORY)

    @cached_property
    def items(self) -> dict[str, OwnQuestion]:
        """The questions by id, read once."""
        items = read_own(self._data, self._decoding)
        if "reference" in self._places and (
            bare := next((key for key, one in items.items() if not one.reference), None)
        ):
            raise UserError(
                f"{self._data}: question {bare} has no reference, which {self._rubric} shows to the judge. Add one to every "
                "question, or take {reference} out."
            )
        return items

    @cached_property
    def template(self) -> str:
        """What the judge is told."""
        if not self._rubric.is_file():
            raise UserError(f"{self._rubric}: no such file. Write what the judge is told into it: task.rubric=...")
        text = self._rubric.read_text("utf-8")
        if missing := {"question", "answer"} - fields_of(text, PLACES, str(self._rubric)):
            raise UserError(f"{self._rubric}: no place for {{{min(missing)}}}. Write it where the judge is to read it.")
        return text

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """The questions and the rubric."""
        return (*([source_file(self._data)] if self._data.is_file() else []), source_file(self._rubric))

    def prompts(self, images: Path) -> list[Prompt]:
        """Return the questions."""
        return [one.prompt for one in self.items.values()]

    def questions(self, answered: Answered) -> list[TaskQuestion]:
        """Return the rubric with question, answer and reference in their places, after the images."""
        item = item_of(answered.prompt, self.items, self.name)
        values = {"question": item.asked, "answer": answered.text, "reference": item.reference}
        shown = answered.image_paths if self._show_images else ()
        parts: tuple[str | QuestionImage, ...] = (*map(QuestionImage, shown), fill(self.template, values))
        return [TaskQuestion(KEY, Question(self._instructions, parts, self._schema), self._read)]

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        """Return each answer's rating."""
        return [self._scored(one) for one in answered]

    def reference(self, prompt: Prompt) -> str:
        """Return the question's reference."""
        return self.items[prompt.id].reference if prompt.id in self.items else ""

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        """Say what could mislead the judge."""
        return judged_cautions(methods)

    @cached_property
    def _places(self) -> frozenset[str]:
        return fields_of(self.template, PLACES, str(self._rubric))

    def _scored(self, one: Answered) -> ScoredAnswer:
        item, judged = item_of(one.prompt, self.items, self.name), judged_of(one.judged, KEY)
        replies = (nearest_reply(judged, RATING),)
        about: dict[str, Any] = {"source": item.category, "group": item.group, "judgements": replies}
        if not judged.values:
            return unrated_answer(one, [judged], **about)
        values = {self.measures[0].name: judged.value(RATING), WORDS.name: float(len(one.text.split()))}
        if item.category:
            values[f"{CATEGORY.name}.{item.category}"] = values[self.measures[0].name]
        values |= several_values([judged]) | spread_values([judged], RATING)
        return scored_answer(one, values, **about)
