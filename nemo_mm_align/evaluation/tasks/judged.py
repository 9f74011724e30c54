"""What tasks have in common whose answers a judge rates in the task's own words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.judging import Judged
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.tasks.rated import WORDS
from nemo_mm_align.evaluation.tasks.ratings import DIFFERENT
from nemo_mm_align.evaluation.tasks.scored import scored_answer
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.evaluation.wording import label_of
from nemo_mm_align.schema.records import Prompt

SPREAD = Measure(
    name="judge_spread",
    label="Judge's spread",
    better=None,
    about="Judge's spread: largest less smallest rating of one answer, where it was rated several times.",
)
SEVERAL = Measure(
    name="several_ratings",
    label="Several ratings",
    share=True,
    better=None,
    shown_at_zero=False,
    about="Several ratings: answers whose judge wrote several different ratings in one reply.",
)
CATEGORY = Measure(name="category", label="By category", grouped=True)
NOT_JUDGED = "not judged"

Item = TypeVar("Item")


def judged_of(judged: Mapping[str, Judged], key: str) -> Judged:
    """Return what a judge said to one question, or that nobody asked it."""
    return judged.get(key) or Judged(failure=NOT_JUDGED)


def why_not(judged: Iterable[Judged]) -> str:
    """Return why there is no value, of the first that has none; "" where all have."""
    return next((one.failure or NOT_JUDGED for one in judged if not one.values), "")


def unrated_answer(one: Answered, judged: Iterable[Judged], **more: Any) -> ScoredAnswer:
    """Return an answer that has no rating, with why; see `scored_answer`."""
    return scored_answer(one, {}, one.failure or why_not(judged), **more)


def spread_values(judged: Iterable[Judged], *names: str) -> dict[str, float]:
    """Return `SPREAD`, the mean over questions and values, where one was asked several times."""
    found = [one.spread(name) for one in judged if len(one.values) > 1 for name in names]
    return {SPREAD.name: sum(found) / len(found)} if found else {}


def several_values(judged: Iterable[Judged]) -> dict[str, float]:
    """Return `SEVERAL`, where a reply was looked through for ratings."""
    found = [values[DIFFERENT] for one in judged for values in one.values if DIFFERENT in values]
    return {SEVERAL.name: float(max(found) > 1)} if found else {}


def nearest_reply(judged: Judged, name: str) -> str:
    """Return the reply whose value is nearest to the median of all, the first of equals; "" where there is none."""
    if not judged.values:
        return ""
    middle = judged.value(name)
    distances = [abs(values[name] - middle) for values in judged.values]
    return judged.replies[distances.index(min(distances))]


def item_of(prompt: Prompt, items: Mapping[str, Item], task: str) -> Item:
    """Return what a task knows of a prompt; `UserError` where it is none of the task's."""
    if prompt.id not in items:
        raise UserError(f"task {task}: prompt {prompt.id} is none of its questions. Give the prompts that it wrote.")
    return items[prompt.id]


def judged_cautions(methods: Mapping[str, MethodResult]) -> list[str]:
    """Say where judges could be misled: by longer answers than the base's, and by several ratings in one reply."""
    said = []
    for name, one in methods.items():
        words, several = one.measurements.get(WORDS.name), one.measurements.get(SEVERAL.name)
        if words and words.minus_base is not None and words.minus_base > 0.2 * (words.value - words.minus_base):
            said.append(f"Answers of {label_of(name)} are longer than the base's; judges tend to prefer length.")
        if several and several.value > 0:
            said.append(
                f"In {several.value:.1%} of {label_of(name)}'s answers the judge wrote several different ratings in one "
                "reply, an answer's own [[10]] quoted among them perhaps: read these replies."
            )
    return said
