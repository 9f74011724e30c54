"""Questions of one's own whose right answers are known: the same text, text that contains it, or a choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.sources import SourceFile, source_file
from nemo_mm_align.evaluation.tasks.matching import Form, contains, is_exact
from nemo_mm_align.evaluation.tasks.option_letters import vlmevalkit_option
from nemo_mm_align.evaluation.tasks.own_rows import Scoring, Truth, read_own_rows, truth_in
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.evaluation.tasks.unjudged import UNPARSABLE, scored_by_rule, unparsable_cautions
from nemo_mm_align.schema.records import Decoding, Prompt

CORRECT = Measure(name="correct", label="Correct", share=True, digits=3)
CATEGORY = Measure(name="category", label="By category", share=True, digits=3, grouped=True)


class OwnTask:
    """Scores answers by texts that are right. Questions with a judge's rubric are another task's.

    Args:
        data: see `read_own_rows`.
        split: of a dataset.
        scoring: of questions that name none: ``exact``: the answer is one of the right ones; ``contains``: it contains one, as
            whole words; ``choice``: it chooses the right one of ``choices``, see `vlmevalkit_option`.
        ignore_case, ignore_whitespace, ignore_punctuation, ignore_articles: what does not count in ``exact`` and ``contains``,
            see `Form`.
        temperature, max_new_tokens: of the model's answers; None: the run's.
        name: what the task's figures are called.
    """

    measures = (CORRECT, UNPARSABLE, CATEGORY)

    def __init__(
        self,
        data: str,
        split: str = "test",
        scoring: Scoring = "exact",
        ignore_case: bool = True,
        ignore_whitespace: bool = True,
        ignore_punctuation: bool = True,
        ignore_articles: bool = False,
        temperature: float | None = 0.0,
        max_new_tokens: int | None = None,
        name: str = "own",
    ) -> None:
        self.name, self._data, self._split, self._scoring = name, data, split, scoring
        self._form = Form(ignore_case, ignore_whitespace, ignore_punctuation, ignore_articles)
        self._decoding = Decoding(temperature=temperature, max_new_tokens=max_new_tokens)

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """The file of questions."""
        return (source_file(Path(self._data)),) if Path(self._data).is_file() else ()

    def prompts(self, images: Path) -> list[Prompt]:
        """Return the questions."""
        return read_own_rows(self._data, self._split, self._scoring, self._decoding, images)

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        """Compare each answer with what is right."""
        return [self._scored(one) for one in answered]

    def reference(self, prompt: Prompt) -> str:
        """Return what is right."""
        truth = truth_in(prompt, self._scoring)
        if truth.scoring == "choice":
            return f"{truth.accepted[0]}. {truth.options[truth.accepted[0]]}"
        return " or ".join(truth.accepted)

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        """Name methods whose answers choose nothing."""
        return unparsable_cautions(methods)

    def _scored(self, one: Answered) -> ScoredAnswer:
        truth = truth_in(one.prompt, self._scoring)
        values = self._values(one.text, truth)
        if truth.category:
            values[f"{CATEGORY.name}.{truth.category}"] = values[CORRECT.name]
        return scored_by_rule(one, values, source=truth.category, group=truth.group)

    def _values(self, text: str, truth: Truth) -> dict[str, float]:
        if truth.scoring == "choice":
            letter = vlmevalkit_option(text, truth.options)
            return {CORRECT.name: float(letter in truth.accepted), UNPARSABLE.name: float(not letter)}
        says = is_exact if truth.scoring == "exact" else contains
        return {CORRECT.name: float(says(text, truth.accepted, self._form))}
