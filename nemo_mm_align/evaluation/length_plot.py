"""Score against length: whether a method's score comes of longer answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nemo_mm_align.evaluation import plots
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.reporting.figures import figure_uri, styled

_POINTS = 200
"""Answers of a method that are drawn one by one."""
_BIN = 10
"""Answers that a mean along the line rests on, at least."""
Scored = Mapping[str, Sequence[ScoredAnswer]]


def words_of(answer: ScoredAnswer) -> int:
    """Length of all that was answered, in words."""
    return answer.num_words or sum(len(text.split()) for text in (answer.answer, *answer.follow_up_answers))


def length_bins(words: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean words and mean score of answers in up to ten bins of equal size, from short to long, [bins] each."""
    order = np.argsort(words, kind="stable")
    bins = np.array_split(order, max(1, min(10, len(order) // _BIN)))
    return np.array([words[one].mean() for one in bins]), np.array([scores[one].mean() for one in bins])


def plot_score_against_length(scored: Scored, measure: Measure, labels: Mapping[str, str]) -> str | None:
    """Mean score of answers from short to long, a line per method; single answers as points where scores are no shares."""
    found = {name: _pairs(answers, measure.name) for name, answers in scored.items() if name in labels}
    found = {name: pair for name, pair in found.items() if len(pair[0])}
    if not found:
        return None
    with styled(7.5, 3.6) as figure:
        axes = figure.subplots()
        generator = np.random.default_rng(0)
        for name, (words, scores) in found.items():
            colour = plots.colour_of(name, list(labels))
            if not measure.share:
                chosen = generator.permutation(len(words))[:_POINTS]
                axes.scatter(words[chosen], scores[chosen], s=7, alpha=0.25, color=colour, linewidths=0)
            axes.plot(*length_bins(words, scores), color=colour, marker="o", markersize=4, label=labels[name])
        axes.set(xlabel="words per answer, follow-ups included", ylabel=measure.label)
        axes.legend(ncols=min(4, len(found)), loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)
        return figure_uri(figure)


def _pairs(answers: Sequence[ScoredAnswer], name: str) -> tuple[np.ndarray, np.ndarray]:
    having = [answer for answer in answers if name in answer.values]
    words = np.array([words_of(answer) for answer in having], dtype=float)
    return words, np.array([answer.values[name] for answer in having], dtype=float)
