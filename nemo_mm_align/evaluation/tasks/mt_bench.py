"""MT-Bench: 80 questions of two turns, each turn rated from 1 to 10 by a judge.

Definition read from github.com/lm-sys/FastChat, fastchat/llm_judge (common.py, gen_judgment.py, gen_model_answer.py,
show_result.py), commit 0e6d3e4beaab66f4d3f93db72541a4abab8af28d.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.judging import Judged, TaskQuestion
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.sources import SourceFile
from nemo_mm_align.evaluation.tasks import fastchat
from nemo_mm_align.evaluation.tasks.irrelevant_image import images_for
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
from nemo_mm_align.evaluation.tasks.mt_bench_data import (
    MTBench,
    MTQuestion,
    judge_message,
    read_mt_bench,
)
from nemo_mm_align.evaluation.tasks.rated import WORDS
from nemo_mm_align.evaluation.tasks.ratings import RATING, Which, bracketed
from nemo_mm_align.evaluation.tasks.scored import scored_answer
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.llm.question import Question
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER, Decoding, Prompt, Turn

TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
LEAST, MOST = 1, 10
SCORE = Measure(name="score", label="MT-Bench", about="MT-Bench: mean rating (1 to 10) of both turns of a question.")
TURNS = (Measure(name="turn_1", label="Turn 1"), Measure(name="turn_2", label="Turn 2"))
WRONG = "Its published reference answer is wrong."


class MTBenchTask:
    """Asks MT-Bench's questions, and a judge for a rating of every turn (single-answer grading).

    A turn that the judge did not rate is missing, and so is its question's score.

    Args:
        data: folder with FastChat's files, see `read_mt_bench`.
        judge_prompts, references: files that lie elsewhere.
        max_new_tokens: limit of each answer.
        rating: which of several ratings in a reply counts.
        image: an image, or a folder of images, that have nothing to do with the questions: one is shown with each.
        judge_model: what the judge is called in FastChat's files.
    """

    name = "mt_bench"
    answer_form = "FastChat's model_answer/MODEL.jsonl (question_id, choices)"
    measures = (SCORE, *TURNS, WORDS, SEVERAL, SPREAD, CATEGORY)

    def __init__(
        self,
        data: str,
        judge_prompts: str | None = None,
        references: str | None = None,
        max_new_tokens: int = 1024,
        rating: Which = "first",
        image: str | None = None,
        judge_model: str = "judge",
    ) -> None:
        self._data = Path(data)
        self._judge_prompts = Path(judge_prompts) if judge_prompts else None
        self._references = Path(references) if references else None
        self._max_new_tokens, self._image, self._judge_model = max_new_tokens, image, judge_model
        self._read = bracketed(LEAST, MOST, rating)

    @cached_property
    def bench(self) -> MTBench:
        """The files, read once."""
        return read_mt_bench(self._data, self._judge_prompts, self._references)

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """Questions, judge prompts and references."""
        return self.bench.sources

    def prompts(self, images: Path) -> list[Prompt]:
        """Return the questions; second turns are follow-ups."""
        shown = images_for(self._image, list(self.bench.questions))
        return [self._prompt(key, one, shown.get(key)) for key, one in self.bench.questions.items()]

    def questions(self, answered: Answered) -> list[TaskQuestion]:
        """Return one question to the judge per turn that was answered; the second shows both turns."""
        question = item_of(answered.prompt, self.bench.questions, self.name)
        turns = range(1, min(len(question.turns), 1 + len(answered.follow_up_answers)) + 1)
        answers = (answered.text, *answered.follow_up_answers)
        return [self._question(question, answers, turn) for turn in turns]

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        """Return each question's ratings."""
        return [self._scored(one) for one in answered]

    def reference(self, prompt: Prompt) -> str:
        """Return the reference answers, where there are some."""
        return "\n\n".join(self.bench.questions[prompt.id].references) if prompt.id in self.bench.questions else ""

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        """Name what misleads the judge, wrong references among it."""
        wrong = self.bench.wrong_references
        said = f"Published reference answers of {len(wrong)} questions are wrong ({', '.join(wrong)}): right answers may lose."
        return judged_cautions(methods) + ([said] if wrong else [])

    def read_answers(self, path: Path) -> dict[str, tuple[str, ...]] | None:
        """Return the answers of a ``model_answer/*.jsonl``."""
        return fastchat.read_answers(path)

    def field_files(self, name: str, scored: Sequence[ScoredAnswer]) -> dict[str, str]:
        """Return ``model_answer`` and ``model_judgment`` as FastChat writes them."""
        return {
            f"model_answer/{name}.jsonl": fastchat.answer_lines(name, scored, self.bench),
            f"model_judgment/{name}_single.jsonl": fastchat.judgement_lines(
                name, scored, self.bench, self._judge_model
            ),
        }

    def _prompt(self, key: str, question: MTQuestion, image: Path | None) -> Prompt:
        first = f"{IMAGE_PLACEHOLDER}\n{question.turns[0]}" if image else question.turns[0]
        return Prompt(
            id=key,
            images=(str(image),) if image else (),
            turns=(Turn(role="user", content=first),),
            follow_ups=question.turns[1:],
            decoding=Decoding(
                temperature=TEMPERATURES.get(question.category, 0.0), max_new_tokens=self._max_new_tokens
            ),
            metadata={"source": question.category},
        )

    def _question(self, question: MTQuestion, answers: Sequence[str], turn: int) -> TaskQuestion:
        system, text = judge_message(self.bench, question, answers, turn)
        return TaskQuestion(f"turn_{turn}", Question(system, (text,)), self._read)

    def _scored(self, one: Answered) -> ScoredAnswer:
        question = item_of(one.prompt, self.bench.questions, self.name)
        judged = [judged_of(one.judged, f"turn_{turn}") for turn in range(1, len(question.turns) + 1)]
        about: dict[str, Any] = {
            "kind": "questions with an image" if one.prompt.images else "questions",
            "source": question.category,
            "notes": (WRONG,) if one.prompt.id in self.bench.wrong_references else (),
            "judgements": tuple(nearest_reply(turn, RATING) for turn in judged),
        }
        if not any(turn.values for turn in judged):
            return unrated_answer(one, judged, **about)
        values = _values(judged, question.category) | {WORDS.name: one.num_words / (1 + len(one.follow_up_answers))}
        return scored_answer(one, values, missing=_missing(values, len(judged), question.category), **about)


def _values(judged: Sequence[Judged], category: str) -> dict[str, float]:
    values = {f"turn_{turn}": one.value(RATING) for turn, one in enumerate(judged, start=1) if one.values}
    if len(values) == len(judged):
        values[SCORE.name] = values[f"{CATEGORY.name}.{category}"] = sum(values.values()) / len(values)
    return values | several_values(judged) | spread_values(judged, RATING)


def _missing(values: Mapping[str, float], turns: int, category: str) -> tuple[str, ...]:
    wanted = (SCORE.name, *(f"turn_{turn}" for turn in range(1, turns + 1)), f"{CATEGORY.name}.{category}")
    return tuple(name for name in wanted if name not in values)
