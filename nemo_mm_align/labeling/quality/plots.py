"""The plots of ``annotations.html``, as SVG data URIs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nemo_mm_align.core.running_mean import Mean
from nemo_mm_align.labeling.quality.collect import Quality
from nemo_mm_align.labeling.quality.statistics import Histogram
from nemo_mm_align.reporting.figures import BLUE, GUIDE, INK, figure_uri, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRETCHES = 40


def plot_distributions(quality: Quality) -> str:
    """How often each value was given, one panel per attribute and one for the score."""
    names = list(quality.histograms)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    with styled(3.4 * columns, 2.2 * rows, layout="constrained") as figure:
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, name in zip(panels, names, strict=False):
            _histogram_panel(axes, name, quality.histograms[name])
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        return figure_uri(figure)


def _histogram_panel(axes: Axes, name: str, histogram: Histogram) -> None:
    total = sum(histogram.counts.values())
    shares = [histogram.counts[value] / total for value in histogram.values]
    whole = histogram.bins is None
    axes.bar(histogram.values, shares, histogram.width * 0.86, color=BLUE, align="center" if whole else "edge")
    if whole and len(histogram.values) <= 13:
        axes.set_xticks(histogram.values)
    axes.set_title(name)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="x", visible=False)


def plot_correlations(quality: Quality) -> str:
    """Pearson correlation of every pair of attributes, of the score and of the length."""
    names, matrix = quality.correlations.names, quality.correlations.matrix()
    size = 1.2 + 0.62 * len(names)
    with styled(size + 0.6, size, layout="constrained", **{"axes.grid": False}) as figure:
        axes = figure.subplots()
        axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        for (row, column), value in np.ndenumerate(matrix):
            text = "–" if np.isnan(value) else f"{value:.2f}"
            colour = "white" if abs(value) > 0.6 else INK
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axes.set_yticks(range(len(names)), names)
        return figure_uri(figure)


def plot_positions(positions: Sequence[Mean]) -> str:
    """Score minus the mean of its prompt, by the place in which the judge saw the candidate."""
    with styled(4.4, 2.8, layout="constrained") as figure:
        axes = figure.subplots()
        places = range(1, len(positions) + 1)
        axes.axhline(0, color=GUIDE, linestyle="--", linewidth=1)
        errors = [(low_high[1] - low_high[0]) / 2 if (low_high := mean.interval) else 0.0 for mean in positions]
        values = [mean.mean for mean in positions]
        axes.errorbar(places, values, errors, color=BLUE, marker="o", linestyle="none", capsize=3)
        axes.set_xticks(list(places))
        axes.set(xlabel="place in the request", ylabel="score − prompt's mean")
        return figure_uri(figure)


def plot_timeline(quality: Quality) -> str:
    """Mean score over the judgements in the order in which they were made."""
    count = min(STRETCHES, len(quality.timeline.blocks))
    parts = quality.timeline.parts(count)
    ends = np.cumsum([part.count for part in parts])
    middles = [end - part.count / 2 for end, part in zip(ends, parts, strict=True)]
    with styled(5.6, 2.8, layout="constrained") as figure:
        axes = figure.subplots()
        values = np.array([part.mean for part in parts])
        errors = np.array([part.interval[1] - part.mean if part.interval else 0.0 for part in parts])
        axes.plot(middles, values, color=BLUE, linewidth=1.4)
        axes.fill_between(middles, values - errors, values + errors, color=BLUE, alpha=0.18, linewidth=0)
        axes.set(xlabel="judgements, in order of time", ylabel="mean score of a prompt")
        return figure_uri(figure)
