"""Plots that nobody looks at."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from nemo_mm_align.labeling.quality import plots


def leave_plots_undrawn(patch: pytest.MonkeyPatch) -> None:
    """Make the figures of ``annotations.html``, but no SVG of them, which takes longer than all else of a run of labelling."""

    def undrawn(figure: Figure) -> str:
        return "data:,"

    patch.setattr(plots, "figure_uri", undrawn)
