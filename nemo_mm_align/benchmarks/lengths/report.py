"""The part's tables."""

from __future__ import annotations

from typing import Any

from nemo_mm_align.benchmarks.tables import markdown_table
from nemo_mm_align.core.units import MIB


def lengths(results: list[dict[str, Any]]) -> str:
    """One table per model, case and precision."""
    return "\n\n".join(map(_table, results))


def _table(found: dict[str, Any]) -> str:
    head = (
        "",
        "step, median",
        "fastest",
        "prompts/s",
        "tokens/s",
        "positions that are no padding",
        f"against {found['peer']}",
        "peak memory",
        "beside libraries",
    )
    sizes = ", ".join(f"{side} {size}" for side, size in found["sizes"].items())
    title = (
        f"**{found['case'].upper()}, lengths of the paper, {found['model']}, {found['precision']}, "
        f"threads: {found['threads']}** "
        f"({found['tokens']:,} tokens a step without padding; micro batches, the quickest that was tried: {sizes}; load "
        f"{found['load_after']})"
    )
    return f"{title}\n\n{markdown_table(head, map(_row, found['lines']))}"


def _row(line: dict[str, Any]) -> tuple[str, ...]:
    held = (line["peak_bytes"], line["peak_bytes"] - line["libraries_bytes"]) if "peak_bytes" in line else ()
    memory = [f"{value / MIB:,.0f} MiB" for value in held] or ["", ""]
    return (
        line["name"],
        f"{line['seconds']:.3g} s",
        f"{min(line['all_seconds']):.3g} s",
        f"{line['prompts_per_second']:.3g}",
        f"{line['tokens_per_second']:,.0f}",
        f"{line['real']:.0%}",
        f"{line['speedup']:.2f}x",
        *memory,
    )
