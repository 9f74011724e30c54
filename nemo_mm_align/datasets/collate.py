"""Turn samples into a `Batch`: plain rows, or one row per sample whose sequences share their prefix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy
import torch
from torch import Tensor

from nemo_mm_align.datasets.batch import PADDING_SEGMENT, PREFIX_SEGMENT, Batch
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.prompts import EncodedSequence

IGNORE_INDEX = -100

ImageLoader = Callable[[Path], numpy.ndarray]


class _Row:
    """Ids, labels, positions and segments of one row under construction."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.positions: list[int] = []
        self.segments: list[int] = []

    def add(self, sequence: EncodedSequence, start: int, end: int, segment: int) -> None:
        """Append positions `start` to `end` of a sequence; each predicts the token after it."""
        after = range(start + 1, end + 1)
        labelled = segment != PREFIX_SEGMENT
        self.ids += sequence.ids[start:end]
        self.labels += [sequence.ids[i] if labelled and sequence.loss_mask[i] else IGNORE_INDEX for i in after]
        self.positions += range(start, end)
        self.segments += [segment] * (end - start)

    def pad(self, length: int, pad_id: int) -> None:
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
    first_labelled = min(sequence.loss_mask.index(True) for sequence in sequences)
    common = 0
    for tokens in zip(*(sequence.ids for sequence in sequences), strict=False):
        if len(set(tokens)) > 1:
            break
        common += 1
    return max(0, min(common, first_labelled - 1))


def row_lengths(sample: Sample, shared_prefix: bool) -> list[int]:
    """Row lengths that a sample will need. The last token of a sequence predicts nothing and is left out."""
    lengths = [len(sequence.ids) - 1 for sequence in sample.sequences]
    if not shared_prefix or len(lengths) == 1:
        return lengths
    prefix = shared_prefix_length(sample.sequences)
    return [prefix + sum(length - prefix for length in lengths)]


def _rows(sample: Sample, shared_prefix: bool) -> list[_Row]:
    rows = []
    if shared_prefix and len(sample.sequences) > 1:
        prefix, row = shared_prefix_length(sample.sequences), _Row()
        row.add(sample.sequences[0], 0, prefix, PREFIX_SEGMENT)
        for branch, sequence in enumerate(sample.sequences, start=1):
            row.add(sequence, prefix, len(sequence.ids) - 1, branch)
        return [row]
    for sequence in sample.sequences:
        row = _Row()
        row.add(sequence, 0, len(sequence.ids) - 1, 1)
        rows.append(row)
    return rows


def collate(
    samples: Sequence[Sample],
    length: int,
    pad_id: int,
    image_token_id: int,
    tokens_per_image: int,
    load_image: ImageLoader | None,
    shared_prefix: bool = False,
) -> Batch:
    """Build one micro batch.

    Args:
        samples: examples; a preference sample holds the chosen sequence before the rejected one.
        length: row length S; every row must fit.
        pad_id: token for the padding on the right.
        image_token_id, tokens_per_image: how images stand in the ids.
        load_image: path to normalised pixels [C, H, W]; ``None`` on stages that need no images.
        shared_prefix: put the sequences of a sample side by side in one row behind their common prefix.

    Raises:
        ValueError: a row does not fit, or image tokens and images of a sample differ in number.
    """
    rows: list[_Row] = []
    paths: dict[Path, int] = {}
    occurrences: list[int] = []
    for sample in samples:
        own = [paths.setdefault(path, len(paths)) for path in sample.image_paths]
        for row in _rows(sample, shared_prefix):
            _check_image_tokens(row, sample, image_token_id, tokens_per_image)
            occurrences += own
            row.pad(length, pad_id)
            rows.append(row)
    images = None
    if load_image is not None and paths:
        images = torch.from_numpy(numpy.stack([load_image(path) for path in paths]))
    references = [value for sample in samples for value in sample.reference_log_probs or ()]
    return Batch(
        input_ids_BS=torch.tensor([row.ids for row in rows]),
        labels_BS=torch.tensor([row.labels for row in rows]),
        position_ids_BS=torch.tensor([row.positions for row in rows]),
        segment_ids_BS=torch.tensor([row.segments for row in rows]),
        images_NCHW=images,
        image_index_K=torch.tensor(occurrences) if images is not None else None,
        sample_ids=tuple(sample.id for sample in samples),
        reference_log_probs_Q=_references(references, samples),
    )


def _check_image_tokens(row: _Row, sample: Sample, image_token_id: int, tokens_per_image: int) -> None:
    tokens, images = row.ids.count(image_token_id), len(sample.image_paths)
    if tokens != images * tokens_per_image:
        raise ValueError(f"sample {sample.id}: {tokens} image tokens for {images} images of {tokens_per_image} each")


def _references(values: list[float], samples: Sequence[Sample]) -> Tensor | None:
    if not values:
        return None
    expected = sum(len(sample.sequences) for sample in samples)
    if len(values) != expected:
        raise ValueError(f"{len(values)} reference log-probs for {expected} sequences of the micro batch")
    return torch.tensor(values, dtype=torch.float32)
