"""How a sample's sequences become rows: one row each, or one row behind their common prefix for those that see the same.

A prefix holds images as the model has encoded them: sequences that see other parts of them have none in common.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from nemo_mm_align.datasets.sample import Picture, Sample
from nemo_mm_align.model.arithmetic import round_up
from nemo_mm_align.schema.prompts import EncodedSequence

IGNORE_INDEX = -100
PADDING_SEGMENT = -1
PREFIX_SEGMENT = 0
PADDING_TREE = -1


class Row:
    """Ids, labels, positions, segments and trees of one row under construction, and the pictures that it sees."""

    def __init__(self, pictures: Sequence[Picture] = ()) -> None:
        self.pictures = list(pictures)
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.positions: list[int] = []
        self.segments: list[int] = []
        self.trees: list[int] = []
        self.num_trees = self.num_branches = 0

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Row:
        """Return one row that holds others one after the other, the trees of each beside those before; see `Batch`."""
        joined = cls()
        for row in rows:
            joined.pictures += row.pictures
            joined.ids += row.ids
            joined.labels += row.labels
            joined.positions += row.positions
            joined.segments += [part and part + joined.num_branches for part in row.segments]
            joined.trees += [tree + joined.num_trees for tree in row.trees]
            joined.num_branches += row.num_branches
            joined.num_trees += row.num_trees
        return joined

    def add(self, sequence: EncodedSequence, start: int, end: int, segment: int) -> None:
        """Append positions `start` to `end` of a sequence; each predicts the token after it, if there is one."""
        labelled = segment != PREFIX_SEGMENT
        self.ids += sequence.ids[start:end]
        self.labels += [
            sequence.ids[i] if labelled and i < len(sequence) and sequence.loss_mask[i] else IGNORE_INDEX
            for i in range(start + 1, end + 1)
        ]
        self.positions += range(start, end)
        self.segments += [segment] * (end - start)
        self.trees += [0] * (end - start)
        self.num_trees, self.num_branches = 1, max(self.num_branches, segment)

    def pad(self, length: int, pad_id: int) -> None:
        """Fill the row up to `length`; raise `ValueError` where it does not fit."""
        missing = length - len(self.ids)
        if missing < 0:
            raise ValueError(f"a row of {len(self.ids)} positions does not fit the batch length {length}")
        self.ids += [pad_id] * missing
        self.labels += [IGNORE_INDEX] * missing
        self.positions += [0] * missing
        self.segments += [PADDING_SEGMENT] * missing
        self.trees += [PADDING_TREE] * missing


def shared_prefix_length(sequences: Sequence[EncodedSequence]) -> int:
    """Positions that all sequences have in common and that predict no labelled token.

    The last prompt token predicts the first answer token, so it belongs to each branch.
    """
    first_labelled = min(sequence.prompt_length for sequence in sequences)
    ids = [sequence.ids for sequence in sequences]
    low, high = min(ids), max(ids)  # what the first and the last in alphabetical order begin with, all begin with
    most = max(0, min(first_labelled - 1, len(low), len(high)))
    if low[:most] == high[:most]:
        return most
    return next(place for place in range(most) if low[place] != high[place])


def row_groups(sample: Sample, shared_prefix: bool) -> list[list[int]]:
    """Return the numbers of the sequences that lie in each of a sample's rows, in order.

    Args:
        shared_prefix: those beside each other that see the same lie in one row behind their common prefix.
    """
    numbers = range(len(sample.sequences))
    if not shared_prefix:
        return [[number] for number in numbers]
    return [list(group) for _, group in itertools.groupby(numbers, key=sample.views.__getitem__)]


def row_lengths(sample: Sample, shared_prefix: bool, last_token: bool = False) -> list[int]:
    """Row lengths that a sample will need.

    Args:
        shared_prefix: its sequences lie in one row behind their common prefix, see `row_groups`.
        last_token: the last token of a sequence, which predicts nothing, is computed as well: an objective reads it.
    """
    return [
        prefix + sum(len(sequence) - (not last_token) - prefix for sequence in sequences)
        for sequences, prefix in row_sequences(sample, shared_prefix)
    ]


def row_sequences(sample: Sample, shared_prefix: bool) -> Iterator[tuple[list[EncodedSequence], int]]:
    """Yield the sequences of each of a sample's rows, and how long their prefix is, 0 for one alone; see `row_groups`."""
    for numbers in row_groups(sample, shared_prefix):
        sequences = [sample.sequences[number] for number in numbers]
        yield sequences, shared_prefix_length(sequences) if len(sequences) > 1 else 0


def batch_length(
    samples: Sequence[Sample], multiple: int = 1, shared_prefix: bool = False, last_token: bool = False
) -> int:
    """Return the one row length of a global batch: its longest row, rounded up to a multiple.

    Args:
        samples: of the global batch, over all data-parallel ranks and micro batches.
        multiple: of the row length, for example the tensor-parallel size with sequence parallelism, or 16 for FP8.
        shared_prefix, last_token: see `row_lengths`.
    """
    longest = max(length for sample in samples for length in row_lengths(sample, shared_prefix, last_token))
    return round_up(longest, multiple)


def rows_of(sample: Sample, shared_prefix: bool, last_token: bool = False) -> list[Row]:
    """Lay a sample's sequences out in rows, not padded yet; see `row_lengths`."""
    missing, rows = int(not last_token), []
    numbers = (group[0] for group in row_groups(sample, shared_prefix))
    for (sequences, prefix), first in zip(row_sequences(sample, shared_prefix), numbers, strict=True):
        row = Row(sample.pictures(first))
        row.add(sequences[0], 0, prefix, PREFIX_SEGMENT)
        for branch, sequence in enumerate(sequences, start=1):
            row.add(sequence, prefix, len(sequence) - missing, branch)
        rows.append(row)
    return rows
