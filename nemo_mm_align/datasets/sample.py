"""Tokenised examples, between the length plan and the collation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from nemo_mm_align.prompts import EncodedSequence


@dataclass
class Sample:
    """An example's sequences, which share its images.

    Args:
        id: of the record, for messages and logs.
        image_paths: in order of appearance in each sequence.
        sequences: one for imitation (SFT, rejection sampling, SteerLM); chosen, then rejected, for a preference.
        reference_log_probs: one per sequence (sum over answer tokens, nats), or None where not computed yet.
    """

    id: str
    image_paths: list[Path] = field(default_factory=list)
    sequences: list[EncodedSequence] = field(default_factory=list)
    reference_log_probs: list[float] | None = None


Packed = tuple[NDArray[np.int32], NDArray[np.bool_]]


class SampleStore(Sequence[Sample]):
    """A sequence of samples that keeps token ids in arrays: 5 bytes per token where lists of numbers take 24 or more.

    A slice gives a list. What is changed in a sample that was taken out does not change the store.
    """

    def __init__(self, samples: Sequence[Sample] = ()) -> None:
        self._samples: list[tuple[str, list[Path], list[Packed], list[float] | None]] = []
        for sample in samples:
            self.append(sample)

    def append(self, sample: Sample) -> None:
        """Add a sample at the end."""
        packed = [(np.array(item.ids, np.int32), np.array(item.loss_mask, np.bool_)) for item in sample.sequences]
        self._samples.append((sample.id, sample.image_paths, packed, sample.reference_log_probs))

    def set_reference_log_probs(self, index: int, values: Sequence[float]) -> None:
        """Attach reference log-probs, one per sequence, to the sample at `index`."""
        sample_id, paths, packed, _ = self._samples[index]
        if len(values) != len(packed):
            raise ValueError(f"sample {sample_id}: {len(values)} reference log-probs for {len(packed)} sequences")
        self._samples[index] = (sample_id, paths, packed, list(values))

    def fingerprint(self) -> str:
        """Short hash of the ids, tokens and names of image files of all samples, in their order."""
        digest = hashlib.sha256()
        for sample_id, paths, packed, _ in self._samples:
            digest.update(repr((sample_id, [path.name for path in paths])).encode())
            for ids, mask in packed:
                digest.update(ids.tobytes() + mask.tobytes())
        return digest.hexdigest()[:16]

    def pictures(self, hash_of: Callable[[Path], str]) -> str:
        """Short hash of what the image files of all samples hold, in their order; "" where there are none.

        Args:
            hash_of: maps an image to the hash of its bytes.
        """
        digest, count = hashlib.sha256(), 0
        for _, paths, _, _ in self._samples:
            count += len(paths)
            digest.update(" ".join(map(hash_of, paths)).encode() + b"\n")
        return digest.hexdigest()[:16] if count else ""

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        sample_id, paths, packed, reference = self._samples[index]
        sequences = [EncodedSequence(ids.tolist(), mask.tolist()) for ids, mask in packed]
        return Sample(sample_id, list(paths), sequences, None if reference is None else list(reference))
