"""How a sample's sequences become rows: one row each, or one row behind their common prefix."""

from __future__ import annotations

from collections.abc import Sequence

from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.model.arithmetic import round_up
from nemo_mm_align.schema.prompts import EncodedSequence

IGNORE_INDEX = -100
PADDING_SEGMENT = -1
PREFIX_SEGMENT = 0


class Row:
    """Ids, labels, positions and segments of one row under construction."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.positions: list[int] = []
        self.segments: list[int] = []

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

    def pad(self, length: int, pad_id: int) -> None:
        """Fill the row up to `length`; raise `ValueError` where it does not fit."""
        missing = length - len(self.ids)
        if missing < 0:
            raise ValueError(f"a row of {len(self.ids)} positions does not fit the batch length {length}")
        self.ids += [pad_id] * missing
        self.labels += [IGNORE_INDEX] * missing
        self.positions += [0] * missing
        self.segments += [PADDING_SEGMENT] * missing


def shared_prefix_length(sequences: Sequence[EncodedSequence]) -> int:
    """Positions that all sequences have in common and that predict no labelled token.

    The last prompt token predicts the first answer token, so it belongs to each branch.
    """
    first_labelled = min(sequence.prompt_length for sequence in sequences)
    common = 0
    for tokens in zip(*(sequence.ids for sequence in sequences), strict=False):
        if len(set(tokens)) > 1:
            break
        common += 1
    return max(0, min(common, first_labelled - 1))


def row_lengths(sample: Sample, shared_prefix: bool, last_token: bool = False) -> list[int]:
    """Row lengths that a sample will need.

    Args:
        shared_prefix: its sequences lie in one row behind their common prefix.
        last_token: the last token of a sequence, which predicts nothing, is computed as well: an objective reads it.
    """
    lengths = [len(sequence) - (not last_token) for sequence in sample.sequences]
    if not shared_prefix or len(lengths) == 1:
        return lengths
    prefix = shared_prefix_length(sample.sequences)
    return [prefix + sum(length - prefix for length in lengths)]


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
    missing = int(not last_token)
    if shared_prefix and len(sample.sequences) > 1:
        prefix, row = shared_prefix_length(sample.sequences), Row()
        row.add(sample.sequences[0], 0, prefix, PREFIX_SEGMENT)
        for branch, sequence in enumerate(sample.sequences, start=1):
            row.add(sequence, prefix, len(sequence) - missing, branch)
        return [row]
    rows = []
    for sequence in sample.sequences:
        row = Row()
        row.add(sequence, 0, len(sequence) - missing, 1)
        rows.append(row)
    return rows
