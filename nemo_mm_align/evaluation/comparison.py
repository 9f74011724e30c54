"""What a comparison of finished evaluations comes to: comparison.json."""

from __future__ import annotations

from typing import Literal

from nemo_mm_align.evaluation.intervals import Interval
from nemo_mm_align.evaluation.measures import Measure, Measurement
from nemo_mm_align.evaluation.results import Resampling, Section


class Difference(Section):
    """One figure of one method less that of another, over the prompts that both have.

    Args:
        figure: name of the measure, ``name.part`` of a grouped one.
        method, against: what is compared with what.
        p_value: how often chance alone would make a difference as large.
        p_corrected: the same, corrected (Holm) for `comparisons`, those of the same measure.
        prompts: that both have.
        length_controlled: what is left of a judge's first measure at equal length.
    """

    figure: str
    method: str
    against: str
    value: float
    interval: Interval | None = None
    length_controlled: float | None = None
    length_controlled_interval: Interval | None = None
    p_value: float | None = None
    p_corrected: float | None = None
    comparisons: int | None = None
    prompts: int


class Change(Section):
    """One prompt whose answers two methods are worth different: values and texts of both."""

    prompt: str
    before: float
    after: float
    answer_before: str
    answer_after: str


class Changes(Section):
    """Prompts by which two methods part.

    Args:
        figure: the first measure that single answers have and that has a better direction; "" where there is none, or too
            many answers failed in it.
        better, worse, equal: how many prompts are so with `method`, compared with `against`.
        worst: those that lost most (of shares: that went from right to wrong), the first of them.
    """

    method: str
    against: str
    figure: str = ""
    better: int = 0
    worse: int = 0
    equal: int = 0
    worst: list[Change] = []


class ComparedTask(Section):
    """One task: figures of all methods, and all pairs of them.

    Args:
        prompts: that all answered.
        methods: figures by method, then by measure.
        notes: what a reader should know before comparing, for example that judges differ.
    """

    task: str
    measures: tuple[Measure, ...]
    prompts: int
    methods: dict[str, dict[str, Measurement]]
    differences: list[Difference]
    changes: list[Changes]
    resampling: Resampling
    notes: list[str] = []


class Comparison(Section):
    """comparison.json: `folders` by the name that they go by, `tasks` by name, `notes` of tasks that not all have."""

    format: Literal[1] = 1
    created: str
    folders: dict[str, str]
    tasks: dict[str, ComparedTask]
    notes: list[str] = []
