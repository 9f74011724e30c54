"""The report's plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nemo_mm_align.evaluation.intervals import Interval
from nemo_mm_align.evaluation.results import BASE, MethodResult, variant_of
from nemo_mm_align.recipes.registry import all_recipes
from nemo_mm_align.reporting.figures import INK, figure_uri, styled
from nemo_mm_align.schema.attributes import AttributeSchema

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASE_COLOUR = "#8a8f98"
SPARE_COLOURS = ("#56b4e9", "#7b5ea7", "#b3a000", "#333333")
"""Of methods that are no recipe. Recipes have their own, of Okabe and Ito's palette, which any colour vision can tell apart."""
Labels = Mapping[str, str]


def colour_of(name: str, names: Sequence[str]) -> str:
    """Colour of a method, the same in every plot; answers that were not asked for attributes have their method's."""
    known = {BASE: BASE_COLOUR} | {recipe.name: recipe.colour for recipe in all_recipes().values()}
    spare = [method for method in dict.fromkeys(variant_of(other)[0] for other in names) if method not in known]
    method = variant_of(name)[0]
    return known.get(method) or SPARE_COLOURS[spare.index(method) % len(SPARE_COLOURS)]


def errors_of(value: float, interval: Interval | None) -> tuple[list[float], list[float]]:
    """Lengths below and above; Wilson's interval may leave a share of 0 or 1 by a rounding error outside."""
    if interval is None:
        return [0.0], [0.0]
    return [max(0.0, value - interval.low)], [max(0.0, interval.high - value)]


def _bars(axes: Axes, methods: Mapping[str, MethodResult], metrics: Mapping[str, str], labels: Labels) -> None:
    """Grouped bars: one group per metric (name -> label below the axis), one bar per method."""
    width = 0.8 / len(methods)
    for index, (name, result) in enumerate(methods.items()):
        for position, metric in enumerate(metrics):
            found = result.measurements.get(metric)
            if found is None:
                continue
            x = position + (index - (len(methods) - 1) / 2) * width
            axes.bar(x, found.value, width * 0.92, color=colour_of(name, list(methods)))
            if found.interval:
                errors = errors_of(found.value, found.interval)
                axes.errorbar(x, found.value, errors, color=INK, linewidth=1, capsize=2)
    axes.set_xticks(range(len(metrics)), list(metrics.values()))
    axes.grid(axis="x", visible=False)
    for name in methods:
        axes.bar([0], [0], color=colour_of(name, list(methods)), label=labels[name])
    axes.legend(ncols=len(methods), loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)


def _rows(figure: Figure) -> Axes:
    """Axes for horizontal bars, the first on top."""
    axes = figure.subplots()
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return axes


def _lying_bar(axes: Axes, label: str, value: float, interval: Interval | None, colour: str) -> None:
    """Add a horizontal bar below those that are there."""
    axes.barh(label, value, 0.7, color=colour)
    if interval:
        axes.errorbar(value, label, xerr=errors_of(value, interval), color=INK, linewidth=1, capsize=2)


def plot_attributes(methods: Mapping[str, MethodResult], schema: AttributeSchema, labels: Labels) -> str:
    """Mean judged value of every attribute, per method."""
    with styled(10.5, 3.4) as figure:
        axes = figure.subplots()
        _bars(axes, methods, {f"judged.{name}": name for name in schema.names}, labels)
        low = min(attribute.minimum for attribute in schema.attributes)
        axes.set_ylim(low, max(attribute.maximum for attribute in schema.attributes))
        axes.set_ylabel("judged, mean")
        return figure_uri(figure)


def plot_shares(methods: Mapping[str, MethodResult], metrics: Mapping[str, str], labels: Labels) -> str:
    """Shares between 0 and 1, per method."""
    with styled(10.5, 3.2) as figure:
        axes = figure.subplots()
        _bars(axes, methods, metrics, labels)
        axes.set_ylim(0, 1)
        axes.set_ylabel("share of answers")
        return figure_uri(figure)


def plot_lengths(methods: Mapping[str, MethodResult], labels: Labels) -> str:
    """Mean length of answers in words, per method."""
    with styled(4.4, 0.5 + 0.42 * len(methods)) as figure:
        axes = _rows(figure)
        for name, result in methods.items():
            colour, found = colour_of(name, list(methods)), result.measurements.get("length_words")
            _lying_bar(axes, labels[name], found.value if found else 0.0, found.interval if found else None, colour)
        axes.set_xlabel("words per answer")
        return figure_uri(figure)


def plot_losses(methods: Mapping[str, MethodResult], labels: Labels) -> str | None:
    """Training loss against optimizer step, one panel per method: losses of different methods are not comparable."""
    trained = {name: result.training for name, result in methods.items() if result.training and result.training.losses}
    if not trained:
        return None
    with styled(2.6 * max(2, len(trained)), 2.4, layout="constrained") as figure:
        panels = figure.subplots(1, len(trained), squeeze=False)[0]
        for axes, (name, facts) in zip(panels, trained.items(), strict=True):
            steps, losses = zip(*facts.losses, strict=True)
            axes.plot(steps, losses, color=colour_of(name, list(methods)), linewidth=1)
            axes.set(title=labels[name], xlabel="optimizer step")
        panels[0].set_ylabel("training loss")
        return figure_uri(figure)


def plot_text_ability(values: Mapping[str, tuple[float, Interval | None]]) -> str:
    """Share of text instructions followed, in the order of training (label -> value and interval)."""
    with styled(4.4, 0.5 + 0.42 * len(values)) as figure:
        axes = _rows(figure)
        for label, (value, interval) in values.items():
            _lying_bar(axes, label, value, interval, "#7f9db9")
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of text instructions followed")
        return figure_uri(figure)
