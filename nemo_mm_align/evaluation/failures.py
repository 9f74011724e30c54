"""Of which figures answers are missing: a failed judgement is counted where it would have entered, and is never 0."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.statistics import Statistic

Methods = Mapping[str, Sequence[ScoredAnswer]]


def figures_of(answer: ScoredAnswer, statistics: Sequence[Statistic] = ()) -> set[str]:
    """Return the names of the figures that an answer enters."""
    whole = {one.measure for one in statistics if all(name in answer.columns for name in one.columns)}
    return whole | set(answer.values)


class Failures:
    """Counts, per method and figure, the answers that would have entered it and failed.

    An answer that says in `missing` what could not be told of it failed there alone. One that failed altogether failed in what
    other methods' answers to the same prompt were measured by; where nobody's was scored, in what prompts of its kind are.
    """

    def __init__(self, methods: Methods, statistics: Sequence[Statistic] = ()) -> None:
        self._methods = methods
        self._statistics = statistics
        self._by_prompt: dict[str, set[str]] = defaultdict(set)
        self._by_kind: dict[str, set[str]] = defaultdict(set)
        for answer in (answer for answers in methods.values() for answer in answers):
            found = figures_of(answer, statistics)
            self._by_prompt[answer.prompt_id] |= found
            self._by_kind[answer.kind] |= {name for name in found if "." not in name}

    def count(self, method: str, figure: str) -> int:
        """Return how many of a method's answers failed in a figure (``name.part`` of a grouped one)."""
        return sum(self._failed(answer, figure) for answer in self._methods[method])

    def _failed(self, answer: ScoredAnswer, figure: str) -> bool:
        if not (answer.failed or answer.missing) or figure in figures_of(answer, self._statistics):
            return False
        if answer.missing:
            part = figure.partition(".")[0] in answer.missing and figure in self._by_prompt[answer.prompt_id]
            return figure in answer.missing or part
        return figure in (self._by_prompt[answer.prompt_id] or self._by_kind[answer.kind])
