"""Tables of the parts ``communication`` and ``data``: what moves between ranks, and what comes to one."""

from __future__ import annotations

import math
from typing import Any

from nemo_mm_align.benchmarks.tables import markdown_table
from nemo_mm_align.core.units import MIB

OURS, SLOW, FAST = "ours", "transformers", "transformers, fast"
"""Sides of the part ``data``; the last one is there where torchvision is."""


def communication(results: list[dict[str, Any]]) -> str:
    """Counted and computed bytes per layout, stage and kind."""
    rows = []
    for found in results:
        for case in found["cases"]:
            for stage in case["stages"]:
                rows += _kinds(f"{found['model']}, {case['layout']}, {case['trained']}, stage {stage['stage']}", stage)
    head = ("", "", "counted, MiB", "formula, MiB", "through a rank's link, all kinds, MiB")
    return "**What a rank communicates in an optimizer step** (DPO, shared prefix, fp32)\n\n" + markdown_table(
        head, rows
    )


def _kinds(title: str, stage: dict[str, Any]) -> list[tuple[str, ...]]:
    counted, formula = stage["counted"], stage["formula"]
    rows = [
        (title, kind, *(f"{found.get(kind, 0) / MIB:,.3f}" for found in (counted, formula)), "")
        for kind in sorted({*counted, *formula})
    ]
    return [(*rows[0][:-1], f"{stage['wire'] / MIB:,.3f}"), *rows[1:]]


def data(found: dict[str, Any]) -> str:
    """Rates of both sides, and the loader processes that a rank needs at the estimator's rate."""
    sides = [side for side in (SLOW, FAST, OURS) if side in found["lines"][0]["images_per_second"]]
    rows = [
        (
            f"{line['kind']}, {line['bytes'] / 1000:.0f} kB, loader processes: {line['workers']}",
            *(f"{line['images_per_second'][side]:,.0f}" for side in sides),
            *(f"{line['speedup'][side]:.2f}x" for side in sides if side != OURS),
            f"{line['tokens_per_second'][OURS]:,.0f}",
            line["load_after"],
        )
        for line in found["lines"]
    ]
    rates = [f"{side}, pictures/s" for side in sides]
    head = ("", *rates, *(f"ours against {side}" for side in sides if side != OURS), "ours, tokens/s", "load")
    return f"**From records to batches, {found['model']}** ({_pixels(found)})\n\n{markdown_table(head, rows)}\n\n{_needed(found)}"


def _pixels(found: dict[str, Any]) -> str:
    """How far the fast processor's pixels are off."""
    known = [line["differences"][FAST] for line in found["lines"] if FAST in line["differences"]]
    off = f"the fast one's pixels differ by up to {max(known):.3g}" if known else "without torchvision no fast one"
    return f"the same ids and pixels as transformers' processor; {off}"


def _needed(found: dict[str, Any]) -> str:
    """How many loader processes make a step never wait, from the rate of one."""
    sentences = []
    fewest = min((line["workers"] for line in found["lines"] if line["workers"] > 0), default=0)
    for line in found["lines"]:
        if line["workers"] == fewest:
            one = line["images_per_second"][OURS] / max(1, fewest)
            wanted = ", ".join(
                f"{method} {rate:.1f} pictures/s: {math.ceil(rate / one)}" for method, rate in found["needed"].items()
            )
            sentences.append(f"{line['kind']}: {wanted}.")
    return f"Loader processes that a rank needs on {found['gpu']} (7B with adapters, the estimator's rate): {' '.join(sentences)}"
