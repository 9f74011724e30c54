"""How plots look, and plots as SVG inside a page: no display, no file, no global matplotlib state."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from nemo_mm_align.reporting.images import data_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#3c4148"
GUIDE = "#b8bcc2"
"""Of axes, and of lines to compare with."""
BLUE = "#0072b2"

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GUIDE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "axes.titlesize": 11,
    "legend.frameon": False,
    "svg.hashsalt": "nemo_mm_align",  # the same figures give the same file
}


@contextmanager
def styled(width: float, height: float, layout: Literal["constrained"] | None = None, **style: Any) -> Iterator[Figure]:
    """Yield an empty figure; what is drawn in the block looks as all plots do.

    Matplotlib is imported here: half a second that commands which draw nothing, or much later, are spared.

    Args:
        width, height: in inches.
        layout: how matplotlib makes room for labels and legends.
        style: settings of matplotlib that differ from `STYLE`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, **style}):
        yield Figure(figsize=(width, height), layout=layout)


def figure_uri(figure: Figure) -> str:
    """Return a figure as an SVG for the `src` of an image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return data_uri(buffer.getvalue(), "image/svg+xml")
