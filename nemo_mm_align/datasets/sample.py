"""Tokenised examples, between the length plan and the collation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

from nemo_mm_align.schema.crops import Crop
from nemo_mm_align.schema.prompts import EncodedSequence

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ANSWER, CHOSEN, REJECTED, CANDIDATE = "answer", "chosen", "rejected", "candidate"
CHOSEN_OTHER_IMAGE = "chosen_other_image"
"""The chosen answer once more, beside a part of its image."""

View = tuple[Crop, ...]
"""What a sequence sees of its sample's images: a part of each, in their order; () stands for the images as they are."""

Picture = tuple[Path, Crop | None]
"""An image file, and the part of it that is seen; None for all of it."""


def usual_roles(sequences: int) -> tuple[str, ...]:
    """Return the roles of a sample that names none: an answer; chosen, then rejected; any number of candidates."""
    return {1: (ANSWER,), 2: (CHOSEN, REJECTED)}.get(sequences, (CANDIDATE,) * sequences)


@dataclass
class Sample:
    """An example's sequences, which share its images.

    Args:
        id: of the record, for messages and logs.
        image_paths: in order of appearance in each sequence.
        sequences: any number; see `roles`.
        reference_log_probs: one per sequence (sum over answer tokens, nats), or None where not computed yet.
        roles: what each sequence is to the objective; () stands for `usual_roles`.
        targets: what is to be told of each sequence, T numbers each, NaN where a value is missing; None without targets.
        views: what each sequence sees of the images; () stands for the images as they are, for all of them.
        prior_sequences: the same answers to the prompt as it is where nothing is asked for, one per sequence, which the
            reference alone is asked about; empty where that need not be known.
        prior_log_probs: what it says of them, as `reference_log_probs`.
    """

    id: str
    image_paths: list[Path] = field(default_factory=list)
    sequences: list[EncodedSequence] = field(default_factory=list)
    reference_log_probs: list[float] | None = None
    roles: tuple[str, ...] = ()
    targets: list[list[float]] | None = None
    views: tuple[View, ...] = ()
    prior_sequences: list[EncodedSequence] = field(default_factory=list)
    prior_log_probs: list[float] | None = None

    def __post_init__(self) -> None:
        self.roles = self.roles or usual_roles(len(self.sequences))
        self.views = self.views or ((),) * len(self.sequences)
        for name, values in (("roles", self.roles), ("targets", self.targets), ("views", self.views)):
            if values is not None and len(values) != len(self.sequences):
                raise ValueError(f"sample {self.id}: {len(values)} {name} for {len(self.sequences)} sequences")
        if any(view and len(view) != len(self.image_paths) for view in self.views):
            raise ValueError(f"sample {self.id}: a view has as many parts as there are images, {len(self.image_paths)}")
        if len(self.prior_sequences) not in (0, len(self.sequences)):
            raise ValueError(
                f"sample {self.id}: {len(self.prior_sequences)} prior sequences for {len(self.sequences)} sequences"
            )

    @property
    def prior(self) -> Sample | None:
        """A sample of the prior sequences; None where there are none."""
        if not self.prior_sequences:
            return None
        return Sample(self.id, self.image_paths, self.prior_sequences, roles=self.roles, views=self.views)

    @property
    def distinct_views(self) -> int:
        """Ways in which its images are seen: how often the tower takes them in."""
        return len(set(self.views))

    def pictures(self, sequence: int) -> list[Picture]:
        """Return what a sequence sees, in order of appearance."""
        view = self.views[sequence] or (None,) * len(self.image_paths)
        return list(zip(self.image_paths, view, strict=True))


@dataclass(frozen=True, slots=True)
class _Packed:
    """A sample with its token ids in arrays."""

    id: str
    image_paths: list[Path]
    sequences: list[tuple[NDArray[np.int32], NDArray[np.bool_]]]
    reference_log_probs: list[float] | None
    roles: tuple[str, ...]
    targets: list[list[float]] | None
    views: tuple[View, ...]
    prior_sequences: list[tuple[NDArray[np.int32], NDArray[np.bool_]]]
    prior_log_probs: list[float] | None

    @classmethod
    def of(cls, sample: Sample) -> _Packed:
        return cls(
            sample.id,
            sample.image_paths,
            _pack(sample.sequences),
            sample.reference_log_probs,
            sample.roles,
            sample.targets,
            sample.views if any(sample.views) else (),
            _pack(sample.prior_sequences),
            sample.prior_log_probs,
        )

    def sample(self) -> Sample:
        reference, targets, prior = self.reference_log_probs, self.targets, self.prior_log_probs
        return Sample(
            self.id,
            list(self.image_paths),
            _unpack(self.sequences),
            None if reference is None else list(reference),
            self.roles,
            None if targets is None else [list(values) for values in targets],
            self.views,
            _unpack(self.prior_sequences),
            None if prior is None else list(prior),
        )

    @property
    def width(self) -> int | None:
        """Targets per sequence; None without targets, -1 where its sequences differ."""
        widths = {len(values) for values in self.targets or ()}
        return None if self.targets is None else widths.pop() if len(widths) == 1 else -1

    def unusual(self) -> bytes:
        """What beside the tokens decides what is learned, where there is anything."""
        usual = self.roles == usual_roles(len(self.sequences)) and self.targets is None
        views = repr(self.views).encode() if self.views else b""
        return views if usual else repr((self.roles, self.targets)).encode() + views


def _pack(sequences: Sequence[EncodedSequence]) -> list[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
    import numpy as np  # the recipes name kinds of samples, and so every help that names recipes imports this module

    return [(np.array(item.ids, np.int32), np.array(item.loss_mask, np.bool_)) for item in sequences]


def _unpack(packed: Sequence[tuple[NDArray[np.int32], NDArray[np.bool_]]]) -> list[EncodedSequence]:
    return [EncodedSequence(ids.tolist(), mask.tolist()) for ids, mask in packed]


class SampleStore(Sequence[Sample]):
    """A sequence of samples that keeps token ids in arrays: 5 bytes per token where lists of numbers take 24 or more.

    A slice gives a list. What is changed in a sample that was taken out does not change the store.
    """

    def __init__(self, samples: Sequence[Sample] = ()) -> None:
        self._samples: list[_Packed] = []
        for sample in samples:
            self.append(sample)

    def append(self, sample: Sample) -> None:
        """Add a sample at the end; raise `ValueError` where it has not as many targets as the first one."""
        packed = _Packed.of(sample)
        if self._samples and packed.width != self._samples[0].width:
            raise ValueError(
                f"sample {packed.id}: {packed.width} targets per sequence, sample {self._samples[0].id} "
                f"{self._samples[0].width}; a missing one is NaN"
            )
        self._samples.append(packed)

    def set_reference_log_probs(self, index: int, values: Sequence[float]) -> None:
        """Attach reference log-probs, one per sequence, to the sample at `index`."""
        self._samples[index] = replace(self._samples[index], reference_log_probs=self._one_each(index, values))

    def set_prior_log_probs(self, index: int, values: Sequence[float]) -> None:
        """Do the same with those of its prior sequences."""
        self._samples[index] = replace(self._samples[index], prior_log_probs=self._one_each(index, values))

    def _one_each(self, index: int, values: Sequence[float]) -> list[float]:
        packed = self._samples[index]
        if len(values) != len(packed.sequences):
            raise ValueError(
                f"sample {packed.id}: {len(values)} reference log-probs for {len(packed.sequences)} sequences"
            )
        return list(values)

    def fingerprint(self) -> str:
        """Short hash of the ids, tokens and names of image files of all samples in order, of roles, targets and views."""
        digest = hashlib.sha256()
        for sample in self._samples:
            digest.update(repr((sample.id, [path.name for path in sample.image_paths])).encode())
            for ids, mask in (*sample.sequences, *sample.prior_sequences):
                digest.update(ids.tobytes() + mask.tobytes())
            digest.update(sample.unusual())
        return digest.hexdigest()[:16]

    def pictures(self, hash_of: Callable[[Path], str]) -> str:
        """Short hash of what the image files of all samples hold, in their order; "" where there are none.

        Args:
            hash_of: maps an image to the hash of its bytes.
        """
        digest, count = hashlib.sha256(), 0
        for sample in self._samples:
            count += len(sample.image_paths)
            digest.update(" ".join(map(hash_of, sample.image_paths)).encode() + b"\n")
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
        return self._samples[index].sample()
