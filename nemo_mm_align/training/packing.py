"""Micro batches by a budget of positions: which replica takes which samples of a step, and which of them share a row.

A micro batch is one row, in which the samples' rows lie one after the other as trees. One row, not several of a common length:
nothing has to be padded between them, a sample of several rows stays whole, and attention for such rows knows trees of any
length. With pipeline stages all rows of a replica's step are padded to its longest one; `pack` makes them nearly equal, and
takes more and shorter ones where that leaves less padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nemo_mm_align.capacity.operations import Work
from nemo_mm_align.datasets.packing import balance, pack


@dataclass(frozen=True)
class Packing:
    """How a step's samples are laid out.

    Args:
        budget: positions of a row at most, padding up to the row length's multiple included.
        replicas: of the model; the samples are divided among them by their cost, not by their number.
        cost: seconds, operations or the like that a sample's work takes; only ratios count.
        equal: rows of a replica are padded to the longest one, as a pipeline wants them.
    """

    budget: int
    replicas: int
    cost: Callable[[Work], float]
    equal: bool = False

    def micro_batches(self, works: Sequence[Work], replica: int) -> list[list[int]]:
        """Return the places, in a step's samples, of those in each micro batch of a replica.

        Args:
            works: of the step's samples, at least one for each replica.
        """
        own = balance([self.cost(work) for work in works], self.replicas)[replica]
        rows = pack([int(works[place].tokens) for place in own], self.budget, self.equal)
        return [[own[place] for place in row] for row in rows]
