"""How rows are divided into trees, known on the host: what attention without a mask tensor goes by.

A tree is a prefix and its branches: they all see the prefix, and nothing of each other. Trees of one row see nothing of each
other either. Shapes: B rows, S positions of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from torch import Tensor

Span = tuple[int, int]
"""First position and the one behind the last."""


class Tree(NamedTuple):
    """Where one lies in its row and how long its parts are; its branches stand one after the other behind the prefix."""

    start: int
    prefix: int
    branches: tuple[int, ...]

    @property
    def end(self) -> int:
        """First position behind it."""
        return self.start + self.prefix + sum(self.branches)

    def spans(self) -> list[Span]:
        """The tree in pieces, one per branch, the first with the prefix in front of it: a plain causal sequence."""
        spans, start = [], self.start
        for number, length in enumerate(self.branches or (0,)):
            end = start + length + (0 if number else self.prefix)
            spans.append((start, end))
            start = end
        return spans


@dataclass(frozen=True)
class Trees:
    """The trees of a batch's rows.

    Args:
        rows: those of each row, in order; what none of them covers is padding.
        length: S.
    """

    rows: tuple[tuple[Tree, ...], ...]
    length: int

    @classmethod
    def of(cls, segment_ids_BS: Tensor, tree_ids_BS: Tensor) -> Trees:
        """Read them off a batch's segments and trees, see `datasets.batch.Batch`; of a GPU's tensors that is a wait.

        Raises:
            ValueError: a tree, a prefix or a branch is torn apart, or a prefix lies behind a branch.
        """
        rows = zip(tree_ids_BS.tolist(), segment_ids_BS.tolist(), strict=True)
        return cls(tuple(tuple(_trees(*row)) for row in rows), segment_ids_BS.shape[1])


def _trees(tree_ids_S: list[int], segment_ids_S: list[int]) -> Iterator[Tree]:
    runs = [(*key, len(list(same))) for key, same in groupby(zip(tree_ids_S, segment_ids_S, strict=True))]
    seen = [run[:2] for run in runs if run[0] >= 0]
    if len(set(seen)) < len(seen):
        raise ValueError("a prefix or a branch does not lie in one piece")
    begun = [tree_id for tree_id, _ in groupby(run[0] for run in runs) if tree_id >= 0]
    if len(set(begun)) < len(begun):
        raise ValueError("a tree does not lie in one piece")
    start = 0
    for tree_id, parts in groupby(runs, key=lambda run: run[0]):
        _, segments, lengths = zip(*parts, strict=True)
        if tree_id >= 0:
            if 0 in segments[1:]:
                raise ValueError("a prefix lies behind a branch of its tree")
            first = int(segments[0] == 0)
            yield Tree(start, sum(lengths[:first]), lengths[first:])
        start += sum(lengths)
