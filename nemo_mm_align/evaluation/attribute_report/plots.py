"""Curves of the calibration: judged over told values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nemo_mm_align.evaluation.attribute_report.calibration import Calibration
from nemo_mm_align.reporting.figures import BLUE, GUIDE, figure_uri, styled
from nemo_mm_align.schema.attributes import AttributeSchema

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_calibration(calibrations: Mapping[str, Calibration], schema: AttributeSchema) -> str:
    """One panel per attribute, with the diagonal of a perfect one."""
    with styled(2.6 * max(2, len(calibrations)), 2.9, layout="constrained") as figure:
        panels = figure.subplots(1, len(calibrations), squeeze=False)[0]
        for axes, (name, calibration) in zip(panels, calibrations.items(), strict=True):
            _panel(axes, calibration, (schema[name].minimum, schema[name].maximum))
            axes.set(title=name, xlabel="told, mean of a bin")
        panels[0].set_ylabel("judged, mean")
        return figure_uri(figure)


def _panel(axes: Axes, calibration: Calibration, ends: tuple[float, float]) -> None:
    axes.plot(ends, ends, color=GUIDE, linestyle="--", linewidth=1)
    told, judged = ([getattr(item, which) for item in calibration.bins] for which in ("told", "judged"))
    axes.plot(told, judged, color=BLUE, marker="o", markersize=4, linewidth=1)
    margin = 0.05 * (ends[1] - ends[0])
    axes.set(xlim=(ends[0] - margin, ends[1] + margin), ylim=(ends[0] - margin, ends[1] + margin), aspect="equal")
