"""Turn samples into a `Batch`: plain rows, one row per sample whose sequences share their prefix, or one row of all samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy
import torch
from torch import Tensor

from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.rows import Row, rows_of
from nemo_mm_align.datasets.sample import Picture, Sample
from nemo_mm_align.schema.crops import Crop

ImageLoader = Callable[[Path], numpy.ndarray]
PictureLoader = Callable[[Path, Crop | None], numpy.ndarray]


def collate(
    samples: Sequence[Sample],
    length: int,
    pad_id: int,
    image_token_id: int,
    tokens_per_image: int,
    load_image: PictureLoader | None,
    shared_prefix: bool = False,
    last_token: bool = False,
    roles: Sequence[str] = (),
    least_rows: int = 0,
    packed: bool = False,
) -> Batch:
    """Build one micro batch.

    Args:
        samples: examples of the micro batch, in order.
        length: row length S; every row must fit.
        pad_id: token for the padding on the right.
        image_token_id, tokens_per_image: how images stand in the ids.
        load_image: path, and the part that is seen, to normalised pixels [C, H, W]; ``None`` on stages that need no images.
        shared_prefix: put the sequences of a sample side by side in one row behind their common prefix, see `row_groups`.
        last_token: compute the last token of each sequence as well, which predicts nothing.
        roles: that sequences of such samples can have, be there one in this micro batch or not.
        least_rows: fill up with rows of padding alone to so many.
        packed: all rows become one, in which each is a tree of its own.

    Raises:
        ValueError: a row does not fit, or image tokens and images of a sample differ in number.
    """
    rows: list[Row] = []
    pictures: dict[Picture, int] = {}
    occurrences: list[int] = []
    for sample in samples:
        _number(sample, pictures)
        for row in rows_of(sample, shared_prefix, last_token):
            _check_image_tokens(row, sample, image_token_id, tokens_per_image)
            occurrences += [pictures[picture] for picture in row.pictures]
            rows.append(row)
    if packed:
        rows = [Row.of(rows)]
    rows += [Row() for _ in range(least_rows - len(rows))]
    for row in rows:
        row.pad(length, pad_id)
    images = None
    if load_image is not None and pictures:
        images = torch.from_numpy(numpy.stack([load_image(path, crop) for path, crop in pictures]))
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
        roles=_places_of_roles(samples, roles),
        sequence_counts=tuple(len(sample.sequences) for sample in samples),
        targets_QT=_targets(samples),
        prior_log_probs_Q=_priors(samples),
        tree_ids_BS=torch.tensor([row.trees for row in rows]) if packed else None,
    )


def _number(sample: Sample, pictures: dict[Picture, int]) -> None:
    """Number what is new of a sample's pictures; the parts of an image beside it, so that it need be decoded but once."""
    for seen in zip(*(sample.pictures(number) for number in range(len(sample.sequences))), strict=True):
        for picture in seen:
            pictures.setdefault(picture, len(pictures))


def _check_image_tokens(row: Row, sample: Sample, image_token_id: int, tokens_per_image: int) -> None:
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


def _priors(samples: Sequence[Sample]) -> Tensor | None:
    if all(sample.prior_log_probs is None for sample in samples):
        return None
    values = [sample.prior_log_probs or [math.nan] * len(sample.sequences) for sample in samples]
    return torch.tensor([value for of_sample in values for value in of_sample], dtype=torch.float32)


def _places_of_roles(samples: Sequence[Sample], known: Sequence[str]) -> dict[str, Tensor]:
    roles = [role for sample in samples for role in sample.roles]
    return {
        role: torch.tensor([place for place, other in enumerate(roles) if other == role], dtype=torch.int64)
        for role in dict.fromkeys([*known, *roles])
    }


def _targets(samples: Sequence[Sample]) -> Tensor | None:
    given = [sample.targets for sample in samples if sample.targets is not None]
    if not given:
        return None
    if len(given) < len(samples):
        raise ValueError(f"{len(samples) - len(given)} of {len(samples)} samples of the micro batch have no targets")
    return torch.tensor([values for targets in given for values in targets], dtype=torch.float32)
