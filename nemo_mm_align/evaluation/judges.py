"""Who is asked in an evaluation: for ratings on the schema, and for what tasks ask in their own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.asking import QuestionAsker
from nemo_mm_align.evaluation.question_calls import Asked
from nemo_mm_align.evaluation.tasks.optional import is_rated
from nemo_mm_align.evaluation.tasks.task import Answered, AsksJudge, Task
from nemo_mm_align.llm.price import Price
from nemo_mm_align.llm.running.dry_run import Estimate
from nemo_mm_align.llm.running.spent import Spent
from nemo_mm_align.schema.records import Prompt


class Rates(Protocol):
    """Has answers rated on the schema."""

    spent: Spent
    """What the answers of the last call cost, whichever runs asked about them."""

    def __call__(self, answers: Sequence[Answered]) -> Sequence[Answered]:
        """Return answers with a judge's ratings, or why there are none."""

    def dry_run(self, answers: Sequence[tuple[Prompt, tuple[Path, ...], str]]) -> Estimate | None:
        """Return what rating these would cost."""


@dataclass(frozen=True)
class Judges:
    """Who is asked.

    Args:
        rate: for tasks that want ratings.
        asker: for tasks that ask in their own words.
        price: of the judge's tokens, if the user gave one.
        settings: of the judge who rates, its rubric among them, without secrets.
    """

    rate: Rates | None = None
    asker: QuestionAsker | None = None
    price: Price | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def settings_for(self, task: Task) -> dict[str, Any]:
        """Return how a task's judge is asked: the rubric of labelling is none of a task's that has words of its own."""
        if is_rated(task):
            return dict(self.settings)
        return dict(self.asker.client.settings) if self.asker is not None and isinstance(task, AsksJudge) else {}

    def judged(self, name: str, task: Task, answered: Sequence[Answered]) -> tuple[list[Answered], Spent | None]:
        """Return a task's answers with all that it wants to know of a judge, in order, and what that cost."""
        if is_rated(task):
            rate = self._rate(task)
            return list(rate(answered)), rate.spent
        if not isinstance(task, AsksJudge):
            return list(answered), None
        asked = [self._asked(name, task, one) for one in answered]
        said, spent = self._asker(task).ask([question for some in asked for question in some])
        replies = iter(said)
        judged = [replace(one, judged={item.question.key: next(replies) for item in some})
                  for one, some in zip(answered, asked, strict=True)]  # fmt: skip
        return judged, spent

    def dry_run(self, name: str, task: Task, answered: Sequence[Answered]) -> Estimate | None:
        """Return what a task would ask and cost; None where nobody is asked."""
        if is_rated(task):
            return self._rate(task).dry_run([(one.prompt, one.image_paths, one.text) for one in answered])
        if not isinstance(task, AsksJudge):
            return None
        asked = [question for one in answered for question in self._asked(name, task, one)]
        return self._asker(task).dry_run(asked)

    def _rate(self, task: Task) -> Rates:
        assert self.rate is not None, f"the task {task.name} wants ratings"
        return self.rate

    def _asker(self, task: Task) -> QuestionAsker:
        assert self.asker is not None, f"the task {task.name} asks a judge"
        return self.asker

    def _asked(self, name: str, task: AsksJudge, one: Answered) -> list[Asked]:
        questions = task.questions(one)
        keys = [question.key for question in questions]
        if len(set(keys)) < len(keys):
            raise UserError(f"task {name}: asks twice under one key about prompt {one.prompt.id}: {', '.join(keys)}.")
        return [Asked(name, one.prompt.id, question) for question in questions]


NO_JUDGES = Judges()
