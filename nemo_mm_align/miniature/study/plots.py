"""Plots of a study, as SVG files: the same figures give the same files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nemo_mm_align.evaluation.plots import BASE_COLOUR, SPARE_COLOURS
from nemo_mm_align.evaluation.results import BASE
from nemo_mm_align.miniature.study.figures import CellFigures
from nemo_mm_align.miniature.study.hypervolume import Point, pareto_front
from nemo_mm_align.miniature.study.outcome import CurvePoint, Front
from nemo_mm_align.recipes.registry import all_recipes
from nemo_mm_align.reporting.figures import GUIDE, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})


def colours_of(recipes: Mapping[str, str | None]) -> dict[str, str]:
    """Return a colour per variant: its recipe's for the first of that recipe, spare ones for the others."""
    found: dict[str, str] = {}
    for name, recipe in recipes.items():
        known = BASE_COLOUR if recipe is None else all_recipes()[recipe].colour
        spare = SPARE_COLOURS[len(found) % len(SPARE_COLOURS)]
        found[name] = spare if known in found.values() else known
    return found


def plot_curves(
    path: Path, curves: Mapping[str, Sequence[CurvePoint]], base: float | None, xlabel: str, colours: Mapping[str, str]
) -> None:
    """Score against the share that is kept, or that is wrong; bars are 95 % intervals over seeds."""
    with styled(6, 3.6) as figure:
        axes = figure.subplots()
        for name, points in curves.items():
            shares, means = [100 * point.share for point in points], [point.score.mean for point in points]
            axes.plot(shares, means, marker="o", color=colours.get(name), label=name)
            bounds = [(point, point.score.bounds) for point in points]
            for point, ends in bounds:
                if ends:
                    axes.plot([100 * point.share] * 2, ends, color=colours.get(name), linewidth=1)
        if base is not None:
            axes.axhline(base, color=GUIDE, linestyle="--", label=BASE)
        axes.set(xlabel=xlabel, ylabel="score")
        axes.legend(fontsize=9)
        save(figure, path)


def plot_levels(
    path: Path,
    cells: Mapping[str, Mapping[int, CellFigures]],
    base: float | None,
    colours: Mapping[str, str],
    attributes: Sequence[str],
) -> None:
    """Score at every value asked, a panel per attribute, means over seeds."""
    with styled(3.4 * len(attributes) + 2, 3.4, layout="constrained") as figure:
        panels = figure.subplots(1, len(attributes), squeeze=False, sharey=True)[0]
        for axes, attribute in zip(panels, attributes, strict=True):
            for name, of_one in cells.items():
                swept = [cell.steering[attribute].levels for cell in of_one.values() if attribute in cell.steering]
                if swept:
                    scores = np.mean([[level.score for level in levels] for levels in swept], axis=0)
                    axes.plot(
                        [level.asked for level in swept[0]], scores, marker="o", color=colours.get(name), label=name
                    )
            if base is not None:
                axes.axhline(base, color=GUIDE, linestyle="--", label=BASE)
            axes.set(title=attribute, xlabel="asked")
        panels[0].set_ylabel("score")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        save(figure, path)


def plot_front(path: Path, front: Front, colours: Mapping[str, str], named: Collection[str]) -> None:
    """Quality against steering error with the front; the dashed lines meet in the reference point; `named` ones have a legend."""
    with styled(8, 4.2, layout="constrained") as figure:
        axes = figure.subplots()
        for name, point in front.points.items():
            shown = name in named
            colour, label = (colours.get(name), name) if shown else (GUIDE, None)
            axes.scatter(point.error, point.quality, color=colour, label=label, s=40 if shown else 12, zorder=3)
            if point.on_front and not shown:
                axes.annotate(name, (point.error, point.quality), xytext=(4, 4), textcoords="offset points", fontsize=8)
        edge = pareto_front([Point(point.quality, point.error) for point in front.points.values()])
        axes.step([one.error for one in edge], [one.quality for one in edge], where="post", color=GUIDE)
        axes.axhline(front.reference_quality, color=GUIDE, linestyle="--")
        axes.axvline(front.reference_error, color=GUIDE, linestyle="--")
        axes.set(xlabel="steering error (less is better)", ylabel="score over levels")
        figure.legend(loc="outside right upper", fontsize=8)
        save(figure, path)
