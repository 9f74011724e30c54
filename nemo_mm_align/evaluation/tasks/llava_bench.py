"""LLaVA-Bench (in the wild): 60 questions about 24 pictures, each answer rated by a judge beside GPT-4's own.

Definition read from github.com/haotian-liu/LLaVA, llava/eval/eval_gpt_review_bench.py and summarize_gpt_review.py, commit
c121f0432da27facab705978f83c4ada465e46fd.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.judging import TaskQuestion
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.sources import SourceFile
from nemo_mm_align.evaluation.statistics import Statistic, ratio
from nemo_mm_align.evaluation.tasks.judged import (
    CATEGORY,
    SPREAD,
    item_of,
    judged_cautions,
    judged_of,
    nearest_reply,
    spread_values,
    unrated_answer,
)
from nemo_mm_align.evaluation.tasks.llava_bench_data import (
    INSTRUCTIONS,
    Bench,
    BenchQuestion,
    Captions,
    read_bench,
)
from nemo_mm_align.evaluation.tasks.llava_files import answer_id, is_llava, llava_answer, llava_answers
from nemo_mm_align.evaluation.tasks.rated import WORDS
from nemo_mm_align.evaluation.tasks.ratings import pair_of_line
from nemo_mm_align.evaluation.tasks.scored import scored_answer
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.llm.question import Question
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER, Decoding, Prompt, Turn

KEY = "both"
SCORE = Measure(
    name="score",
    label="LLaVA-Bench",
    digits=1,
    about="LLaVA-Bench: 100 times the model's mean rating by GPT-4's, both as rated in the same replies.",
)
OURS = Measure(name="rating", label="Rating", about="Rating: of the answer, from 1 to 10.")
THEIRS = Measure(name="rating_gpt4", label="Rating of GPT-4", better=None, about="Rating of GPT-4's answer beside it.")
LEAST, MOST = 1, 10


class LlavaBenchTask:
    """Asks LLaVA-Bench's questions, and a judge for two ratings: GPT-4's answer first, the model's second, always.

    An unrated answer is missing: it enters neither mean.

    Args:
        data: folder with the benchmark's files, or a dataset's name, see `read_bench`.
        rules: LLaVA's ``rule.json``, if it lies elsewhere.
        captions: how the judge reads the pictures' captions.
        max_new_tokens: limit of each answer.
    """

    name = "llava_bench"
    answer_form = "LLaVA's answers (question_id, text)"
    measures = (SCORE, OURS, THEIRS, WORDS, SPREAD, CATEGORY)

    def __init__(
        self, data: str, rules: str | None = None, captions: Captions = "as_published", max_new_tokens: int = 1024
    ) -> None:
        self._data, self._rules = Path(data), Path(rules) if rules else None
        self._captions: Captions = captions
        self._images: Path | None = None
        self._max_new_tokens = max_new_tokens
        self._read = pair_of_line(LEAST, MOST, (THEIRS.name, OURS.name))

    @cached_property
    def bench(self) -> Bench:
        """The files, read once."""
        return read_bench(self._data, self._rules, self._captions, self._images)

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """Questions, captions, GPT-4's answers and rules."""
        return self.bench.sources

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The score over all questions, and over those of each category."""
        categories = dict.fromkeys(one.category for one in self.bench.questions.values())
        parts = [(f"{CATEGORY.name}.{name}", _columns(name)) for name in categories]
        return tuple(
            Statistic(name, both, ratio(*both, times=100.0)) for name, both in [(SCORE.name, _columns()), *parts]
        )

    def prompts(self, images: Path) -> list[Prompt]:
        """Return the questions, each after its picture."""
        self._images = self._images or images
        return [self._prompt(key, one) for key, one in self.bench.questions.items()]

    def questions(self, answered: Answered) -> list[TaskQuestion]:
        """Return the question for both ratings."""
        item = item_of(answered.prompt, self.bench.questions, self.name)
        return [TaskQuestion(KEY, Question(INSTRUCTIONS, (item.message(answered.text),)), self._read)]

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        """Return each answer's two ratings."""
        return [self._scored(one) for one in answered]

    def reference(self, prompt: Prompt) -> str:
        """Return GPT-4's answer."""
        return self.bench.questions[prompt.id].reference if prompt.id in self.bench.questions else ""

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        """Say what the judge does not see, and which methods answer at greater length."""
        letters = "LLaVA-Bench: the judge reads each caption with a line break after every letter, as LLaVA's script sends it."
        spelt = any("\n" in one.caption for one in self.bench.questions.values())
        return judged_cautions(methods) + ([letters] if spelt and self._captions == "as_published" else [])

    def read_answers(self, path: Path) -> dict[str, tuple[str, ...]] | None:
        """Return the answers of a file of LLaVA's."""
        return llava_answers(path) if is_llava(path) else None

    def field_files(self, name: str, scored: Sequence[ScoredAnswer]) -> dict[str, str]:
        """Return answers and reviews; unrated answers have no review, for LLaVA's summary would count their -1."""
        answers = [self._answer(name, one) for one in scored]
        reviews = [self._review(name, one) for one in scored if one.values]
        return {f"answers/{name}.jsonl": _lines(answers), f"reviews/{name}.jsonl": _lines(reviews)}

    def _prompt(self, key: str, item: BenchQuestion) -> Prompt:
        return Prompt(
            id=key,
            images=(str(item.image),),
            turns=(Turn(role="user", content=f"{IMAGE_PLACEHOLDER}\n{item.text}"),),
            decoding=Decoding(temperature=0.0, max_new_tokens=self._max_new_tokens),
            metadata={"source": item.category},
        )

    def _scored(self, one: Answered) -> ScoredAnswer:
        item, judged = item_of(one.prompt, self.bench.questions, self.name), judged_of(one.judged, KEY)
        replies = (nearest_reply(judged, OURS.name),)
        about: dict[str, Any] = {"source": item.category, "group": item.image.name, "judgements": replies}
        if not judged.values:
            return unrated_answer(one, [judged], **about)
        ratings = {name: judged.value(name) for name in (OURS.name, THEIRS.name)}
        values = ratings | spread_values([judged], *ratings) | {WORDS.name: float(len(one.text.split()))}
        columns = {
            name: value
            for names in (_columns(), _columns(item.category))
            for name, value in zip(names, ratings.values(), strict=True)
        }
        return scored_answer(one, values, columns=columns, **about)

    def _answer(self, name: str, one: ScoredAnswer) -> dict[str, object]:
        item = self.bench.questions[one.prompt_id]
        return llava_answer(item.key, item.text, one.answer, name)

    def _review(self, name: str, one: ScoredAnswer) -> dict[str, object]:
        item = self.bench.questions[one.prompt_id]
        return {
            "id": list(self.bench.questions).index(one.prompt_id) + 1,
            "question_id": item.key,
            "answer1_id": item.reference_id,
            "answer2_id": answer_id(name, item.key, one.answer),
            "category": f"llava_bench_{item.category}",
            "content": one.judgements[0],
            "tuple": [one.values[THEIRS.name], one.values[OURS.name]],
        }


def _columns(category: str = "") -> tuple[str, str]:
    """Return the names of the columns of ratings, the model's and GPT-4's, of a category's questions or of all."""
    suffix = f".{category}" if category else ""
    return f"{OURS.name}{suffix}", f"{THEIRS.name}{suffix}"


def _lines(values: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
