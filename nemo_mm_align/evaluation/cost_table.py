"""What judging cost, as a table: a row per task, and their sum."""

from __future__ import annotations

from collections.abc import Mapping

from nemo_mm_align.evaluation.cost import Cost, total_cost
from nemo_mm_align.evaluation.results import Results
from nemo_mm_align.reporting.tables import Cell

COST_HEADS = ["Task", "Judge calls", "Failed", "Tokens in", "Tokens out", "Cost", "Seconds of judging"]


def cost_rows(tasks: Mapping[str, Results]) -> list[list[Cell]]:
    """Return a row for each task whose judging was counted; several have a sum."""
    costs = {name: results.cost for name, results in tasks.items() if results.cost is not None}
    total = total_cost(costs.values())
    if len(costs) > 1 and total is not None:
        costs["All tasks"] = total
    return [_row(name, cost) for name, cost in costs.items()]


def _row(name: str, cost: Cost) -> list[Cell]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(cost.failures_by_kind.items()))
    money = "–" if cost.money is None else f"{cost.money:,.2f} {cost.currency}".strip()
    return [
        Cell(name),
        Cell(f"{cost.calls:,}"),
        Cell(f"{cost.failures:,}", kinds, wraps=True),
        Cell(f"{cost.input_tokens:,}"),
        Cell(f"{cost.output_tokens:,}"),
        Cell(money),
        Cell(f"{cost.seconds:,.0f}"),
    ]
