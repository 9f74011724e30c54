"""MM-Vet: 218 questions about pictures, each answer rated from 0.0 to 1.0 by a judge that continues a table of examples.

Definition read from github.com/yuweihao/MM-Vet, mm-vet_evaluator.py, commit acde843e02dae30047bb456ee4a8ab28dee7e0ae.
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
from nemo_mm_align.evaluation.tasks import mm_vet_files
from nemo_mm_align.evaluation.tasks.judged import (
    SPREAD,
    item_of,
    judged_cautions,
    judged_of,
    spread_values,
    unrated_answer,
)
from nemo_mm_align.evaluation.tasks.mm_vet_data import MMVetQuestion, read_examples, read_questions
from nemo_mm_align.evaluation.tasks.rated import WORDS
from nemo_mm_align.evaluation.tasks.ratings import RATING, first_word
from nemo_mm_align.evaluation.tasks.scored import scored_answer
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.llm.question import Question
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER, Decoding, Prompt, Turn

KEY = "correctness"
SCORE = Measure(name="score", label="MM-Vet", digits=1, about="MM-Vet: mean correctness, times 100.")
CAPABILITY = Measure(name="capability", label="By capability", grouped=True, digits=1)
COMBINATION = Measure(name="combination", label="By combination of capabilities", grouped=True, digits=1)


class MMVetTask:
    """Asks MM-Vet's questions, and a judge how correct the answers are. An unrated answer is missing.

    Args:
        data: folder with ``mm-vet.json`` and ``images/``, that file, or a dataset's name.
        examples: the published prompt, see `read_examples`.
        max_new_tokens: limit of each answer.
        judge_model: what the judge is called in the evaluator's files.
    """

    name = "mm_vet"
    answer_form = "MM-Vet's results/MODEL.json ({id: text}), LLaVA's answers (question_id, text)"
    measures = (SCORE, WORDS, SPREAD, CAPABILITY, COMBINATION)

    def __init__(self, data: str, examples: str, max_new_tokens: int = 1024, judge_model: str = "judge") -> None:
        self._data, self._examples_path = data, Path(examples)
        self._max_new_tokens, self._judge_model = max_new_tokens, judge_model
        self._images: Path | None = None
        self._read = first_word(0.0, 1.0)

    @cached_property
    def items(self) -> dict[str, MMVetQuestion]:
        """The questions by id, read once."""
        return read_questions(self._data, self._images)

    @cached_property
    def examples(self) -> str:
        """The table of examples that the judge continues."""
        return read_examples(self._examples_path)[0]

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """The questions, where they are a file, and the prompt."""
        return (*mm_vet_files.question_sources(self._data), read_examples(self._examples_path)[1])

    def prompts(self, images: Path) -> list[Prompt]:
        """Return the questions, each after its picture."""
        self._images = self._images or images
        return [self._prompt(key, one) for key, one in self.items.items()]

    def questions(self, answered: Answered) -> list[TaskQuestion]:
        """Return the table's last row, to be completed."""
        item = item_of(answered.prompt, self.items, self.name)
        return [TaskQuestion(KEY, Question("", (f"{self.examples}\n{item.row(answered.text)}",)), self._read)]

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        """Return each answer's correctness, times 100."""
        return [self._scored(one) for one in answered]

    def reference(self, prompt: Prompt) -> str:
        """Return the ground truth."""
        return self.items[prompt.id].answer if prompt.id in self.items else ""

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        """Say which methods answer at greater length."""
        return judged_cautions(methods)

    def read_answers(self, path: Path) -> dict[str, tuple[str, ...]] | None:
        """Return the answers of the evaluator's ``results/MODEL.json``, or of LLaVA's file of them."""
        return mm_vet_files.read_answers(path)

    def field_files(self, name: str, scored: Sequence[ScoredAnswer]) -> dict[str, str]:
        """Return answers and grades as the evaluator's files have them."""
        return mm_vet_files.field_files(name, scored, self._judge_model, self._read)

    def _prompt(self, key: str, item: MMVetQuestion) -> Prompt:
        return Prompt(
            id=key,
            images=(str(item.image),),
            turns=(Turn(role="user", content=f"{IMAGE_PLACEHOLDER}\n{item.question}"),),
            decoding=Decoding(temperature=0.0, max_new_tokens=self._max_new_tokens),
            metadata={"source": item.combination},
        )

    def _scored(self, one: Answered) -> ScoredAnswer:
        item, judged = item_of(one.prompt, self.items, self.name), judged_of(one.judged, KEY)
        about: dict[str, Any] = {"source": item.combination, "group": item.image.name, "judgements": judged.replies}
        if not judged.values:
            return unrated_answer(one, [judged], **about)
        return scored_answer(one, _values(item, judged) | {WORDS.name: float(len(one.text.split()))}, **about)


def _values(item: MMVetQuestion, judged: Judged) -> dict[str, float]:
    """Return an answer's values: over several runs their mean, as published."""
    value = 100 * sum(values[RATING] for values in judged.values) / len(judged.values)
    values = {SCORE.name: value, f"{COMBINATION.name}.{item.combination}": value}
    values |= {f"{CAPABILITY.name}.{name}": value for name in item.capabilities}
    return values | {name: 100 * spread for name, spread in spread_values([judged], RATING).items()}
