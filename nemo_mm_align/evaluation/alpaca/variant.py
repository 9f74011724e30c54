"""Which of AlpacaEval's regressions an instruction set and a table of difficulties allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nemo_mm_align.evaluation.alpaca.files import read_difficulties
from nemo_mm_align.evaluation.alpaca.regression import LengthControl


@dataclass(frozen=True)
class Variant:
    """A regression with its name.

    Args:
        control: the regression.
        name: as the package calls it.
        said: how it differs from the published figure, in a word or two; "" where it does not.
        why: what the published one lacks here; "" where it lacks nothing.
        difficulties: by place in the instruction set; empty where the regression knows none.
    """

    control: LengthControl
    name: str
    said: str = ""
    why: str = ""
    difficulties: Mapping[int, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Heading of the figure's column."""
        return f"LC win rate ({self.said})" if self.said else "LC win rate"


def minimal(why: str) -> Variant:
    """Return the regression on length and intercept alone, which any instruction set allows."""
    return Variant(LengthControl(), "length_controlled_minimal", "minimal variant", why)


def variant_for(difficulty: Path | None, instructions: int) -> Variant:
    """Return the regression for this many instructions.

    Args:
        difficulty: ``df_gamed.csv`` or ``instruction_difficulty.csv``, see `read_difficulties`; its rows belong to places in the
            published instruction set, so one that does not have exactly the places of this set is not used.

    Raises:
        UserError: the file is broken.
    """
    if difficulty is None:
        return minimal("no difficulty table")
    table = read_difficulties(difficulty)
    if set(table.by_place) != set(range(instructions)):
        return minimal("another instruction set than the difficulty table's")
    if table.gamed is None:
        control = LengthControl(has_difficulty=True)
        return Variant(
            control, "length_controlled_noreg", "no gamed baselines", "a table without their rows", table.by_place
        )
    control = LengthControl(has_difficulty=True, gamed=table.gamed)
    return Variant(control, "length_controlled_v1", difficulties=table.by_place)
