"""What the report shows of steering: how each model follows, and questions answered at several settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_mm_align.evaluation import plots, wording
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.intervals import bounds_of
from nemo_mm_align.evaluation.results import Results, SteeringResult
from nemo_mm_align.reporting.figures import GUIDE, figure_uri, styled
from nemo_mm_align.reporting.images import image_uri
from nemo_mm_align.reporting.tables import Cell, measured, named_values, number
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADS = [
    "Model",
    "Attribute",
    "Spearman",
    "Mean |judged − asked|",
    "Slope",
    "Never against",
    "Range",
    "At equal length",
    "Cross-talk",
    "Score at each value",
    "Correctness at each value",
]
MAX_EDGE = 512
_FEW = 12
"""Attribute values that a card may show."""


@dataclass(frozen=True)
class SteeredSample:
    """One question with a model's answers at several settings."""

    method: str
    prompt: Prompt
    image_paths: tuple[Path, ...]
    answers: Sequence[ScoredAnswer]


def steering_rows(results: Results) -> Iterator[list[Cell]]:
    """One attribute of one model per row."""
    names = coloured_names(results)
    for method, steering in results.steering_by_method.items():
        for attribute, result in steering.items():
            yield [
                Cell(wording.label_of(method), colour=plots.colour_of(method, names)),
                Cell(attribute),
                _correlation(result),
                measured(result.mae, bounds_of(result.mae_interval)),
                measured(result.slope, bounds_of(result.slope_interval)),
                _following(result),
                Cell(number(result.range)),
                Cell(number(result.at_equal_length)),
                Cell(", ".join(f"{other} {slope:+.2f}" for other, slope in result.cross_talk.items())),
                _at_each_value((point.asked, point.score) for point in result.curve),
                _at_each_value((point.asked, point.correctness) for point in result.curve),
            ]


def _following(result: SteeringResult) -> Cell:
    """The share of prompts that never go against what is asked, and of those that follow at every step."""
    found = measured(result.never_against, bounds_of(result.never_against_interval))
    if result.strictly_follows is None:
        return found
    return Cell(
        found.value, ", ".join([*([found.small] if found.small else []), f"strictly {result.strictly_follows:.2f}"])
    )


def _at_each_value(values: Iterable[tuple[float, float | None]]) -> Cell:
    return Cell(", ".join(f"{asked:g}: {value:.2f}" for asked, value in values if value is not None), wraps=True)


def _correlation(result: SteeringResult) -> Cell:
    """With its interval over seeds, or the value of each seed where a t-interval would say less."""
    found = measured(result.spearman, bounds_of(result.interval))
    if len(result.spearman_per_seed) < 2:
        return found
    per_seed = ", ".join(number(value) for value in result.spearman_per_seed)
    return Cell(found.value, f"per seed {per_seed}", wraps=True)


def coloured_names(results: Results) -> list[str]:
    """Everything that has a colour: the methods, and models of which only the steering was measured."""
    return list(dict.fromkeys([*results.methods, *results.steering_by_method]))


def plot_steering(results: Results, schema: AttributeSchema) -> str | None:
    """Asked against judged, one panel per attribute and a line per model, with the diagonal of perfect obedience."""
    by_method, names = results.steering_by_method, coloured_names(results)
    asked = [name for name in schema.names if any(name in steering for steering in by_method.values())]
    if not asked:
        return None
    with styled(2.6 * max(2, len(asked)), 3.1, layout="constrained") as figure:
        panels = figure.subplots(1, len(asked), squeeze=False)[0]
        for axes, name in zip(panels, asked, strict=True):
            _panel(axes, {method: of[name] for method, of in by_method.items() if name in of}, schema[name], names)
        panels[0].set_ylabel("judged, mean")
        if len(by_method) > 1:
            figure.legend(
                handles=_handles(panels), loc="outside lower center", ncols=len(by_method), frameon=False, fontsize=8
            )
        return figure_uri(figure)


def _handles(panels: Sequence[Axes]) -> list[Any]:
    """One line of each label over all panels."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values())


def _panel(axes: Axes, results: Mapping[str, SteeringResult], attribute: Attribute, names: Sequence[str]) -> None:
    ends = (attribute.minimum, attribute.maximum)
    axes.plot(ends, ends, color=GUIDE, linestyle="--", linewidth=1)
    for method, result in results.items():
        errors = [plots.errors_of(point.judged, point.interval) for point in result.curve]
        axes.errorbar(
            [point.asked for point in result.curve],
            [point.judged for point in result.curve],
            ([low[0] for low, _ in errors], [high[0] for _, high in errors]),
            color=plots.colour_of(method, names),
            label=wording.label_of(method),
            marker="o",
            markersize=4,
            capsize=2,
        )
    margin = 0.05 * (ends[1] - ends[0])
    axes.set(xlim=(ends[0] - margin, ends[1] + margin), ylim=(ends[0] - margin, ends[1] + margin))
    axes.set(title=attribute.name, xlabel="asked", aspect="equal")


def steered_card(sample: SteeredSample, schema: AttributeSchema) -> dict[str, Any]:
    """One question with its images inlined, and what the model answers at each setting."""
    answers = sorted(sample.answers, key=lambda answer: _moved(answer, schema))
    left_out = len(answers) - _FEW
    return {
        "images": [image_uri(path, MAX_EDGE, "png") for path in sample.image_paths],
        "question": sample.prompt.question,
        "notes": [
            wording.label_of(sample.method),
            *([f"{left_out} more settings are not shown."] if left_out > 0 else []),
        ],
        "answers": [
            {
                "asked": _asked(answer, schema),
                "text": answer.answer or "(empty)",
                "scores": named_values(answer.ratings),
            }
            for answer in answers[:_FEW]
        ],
    }


def _moved(answer: ScoredAnswer, schema: AttributeSchema) -> tuple[int, float]:
    """Order of a card: the defaults, then each attribute from its lowest value to its highest, matters of taste first."""
    tastes_first = sorted(schema.attributes, key=lambda attribute: attribute.higher_is_better is not None)
    for place, attribute in enumerate(tastes_first, start=1):
        value = (answer.asked or {}).get(attribute.name, attribute.default)
        if value != attribute.default:
            return place, value
    return 0, 0.0


def _asked(answer: ScoredAnswer, schema: AttributeSchema) -> str:
    asked = answer.asked or {}
    moved = [f"{name} {value:g}" for name, value in asked.items() if value != schema[name].default]
    return ", ".join(moved) or "all at default: " + ", ".join(f"{name} {value:g}" for name, value in asked.items())
