"""What a task asks a judge in its own words, and what it makes of the replies; who asks stands in `asking.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from nemo_mm_align.llm.question import Answer, Question

Read = Callable[[Answer], Mapping[str, float]]
"""Returns the numbers of a reply; raises `CallFailure` of kind ``unparsable`` where it holds none."""


@dataclass(frozen=True)
class TaskQuestion:
    """One question of a task to a judge, about one answer.

    Args:
        key: what the task knows it by, among the questions about one answer, for example ``turn_2``.
        question: as the judge is asked it.
        read: what its reply is read by. Replies are kept as they came and read anew by every run: what a changed rule cannot
            read is asked again.
    """

    key: str
    question: Question
    read: Read


@dataclass(frozen=True)
class Judged:
    """What a judge replied to one question, asked once or, with ``repeat``, several times.

    Args:
        values: what was read of each reply.
        replies: as they came.
        failure: the class of the last failure, where there is no reply that can be read; "" otherwise.
    """

    values: tuple[Mapping[str, float], ...] = ()
    replies: tuple[str, ...] = ()
    failure: str = ""

    def value(self, name: str) -> float:
        """Return the median of a value over the replies; `KeyError` where there is none."""
        if not self.values:
            raise KeyError(name)
        return float(median(values[name] for values in self.values))

    def spread(self, name: str) -> float:
        """Return the largest less the smallest of a value over the replies."""
        found = [values[name] for values in self.values]
        return max(found) - min(found)
