"""How plots look, and plots as SVG data URIs: no display, no file, no global matplotlib state."""

from __future__ import annotations

import base64
import io

from matplotlib.figure import Figure

INK = "#3c4148"

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b8bcc2",
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


def data_uri(figure: Figure) -> str:
    """Return a figure as an SVG for the `src` of an image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
