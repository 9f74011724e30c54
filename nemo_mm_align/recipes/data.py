"""Training data of a run: records -> samples -> the micro batches of every step."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
from torch.utils.data import Dataset, Sampler

from nemo_mm_align.capacity.operations import Work
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.collate import collate
from nemo_mm_align.datasets.plan import PlanSettings, batch_length, plan_lengths
from nemo_mm_align.datasets.sample import Sample, SampleStore
from nemo_mm_align.datasets.sampler import GlobalBatchSampler
from nemo_mm_align.datasets.sources import SourceSettings, read_examples
from nemo_mm_align.errors import UserError
from nemo_mm_align.image_hashes import ImageHashes
from nemo_mm_align.images import ImageProcessor, load_image
from nemo_mm_align.prompts import Encoder
from nemo_mm_align.recipes.methods import Method
from nemo_mm_align.recipes.work import work_of
from nemo_mm_align.records import PreferenceExample

logger = logging.getLogger(__name__)

IMAGE_CACHE_BYTES = 1 << 30
"""Of decoded images that a rank remembers."""


@dataclass(frozen=True)
class BatchShape:
    """How samples become rows.

    Args:
        length_multiple: row lengths are multiples of this, see `row_length_multiple`.
        shared_prefix: the sequences of a sample lie in one row behind their common prefix.
    """

    length_multiple: int = 1
    shared_prefix: bool = False


class Collator:
    """Builds batches of chosen samples; decodes images only on ranks that feed them to the tower."""

    def __init__(self, encoder: Encoder, processor: ImageProcessor, shape: BatchShape, with_images: bool) -> None:
        self.encoder, self.shape, self.with_images = encoder, shape, with_images
        images = max(1, IMAGE_CACHE_BYTES // (3 * processor.image_size**2 * 4))
        self._pixels = functools.lru_cache(images)(lambda path: processor(load_image(path)))

    def length(self, samples: Sequence[Sample]) -> int:
        """Common row length of the samples of a step."""
        return batch_length(samples, self.shape.length_multiple, self.shape.shared_prefix)

    def __call__(self, samples: Sequence[Sample], length: int) -> Batch:
        """Build one micro batch of rows of `length`."""
        return collate(
            samples,
            length,
            self.encoder.pad_id,
            self.encoder.image_token_id,
            self.encoder.tokens_per_image,
            self._load if self.with_images else None,
            self.shape.shared_prefix,
        )

    def _load(self, path: Path) -> numpy.ndarray:
        pixels: numpy.ndarray = self._pixels(path)
        return pixels


@dataclass(frozen=True)
class StepBatches:
    """This rank's share of a training step, its micro batches of one row length, and what all ranks do in it."""

    batches: list[Batch]
    work: Work

    def pin_memory(self) -> StepBatches:
        """Return the same in pinned memory; torch's loader calls this."""
        return replace(self, batches=[batch.pin_memory() for batch in self.batches])


class StepDataset(Dataset[StepBatches]):
    """Item i is this rank's part of training step i."""

    def __init__(
        self, samples: Sequence[Sample], sampler: GlobalBatchSampler, collator: Collator, data_parallel_rank: int
    ) -> None:
        self.samples, self.sampler, self.collator, self.rank = samples, sampler, collator, data_parallel_rank

    def __getitem__(self, step: int) -> StepBatches:
        samples = {index: self.samples[index] for index in self.sampler.global_batch(step)}
        length = self.collator.length(list(samples.values()))
        batches = [
            self.collator([samples[index] for index in indices], length)
            for indices in self.sampler.micro_batches(step, self.rank)
        ]
        everybody = (samples[index] for index in self.sampler.global_batch(step))
        return StepBatches(batches, work_of(everybody, self.collator.shape.shared_prefix))


class RemainingSteps(Sampler[int]):
    """Steps from `start` on; its length is the whole run's, as Lightning's progress counts it."""

    def __init__(self, start: int, total: int) -> None:
        self.start, self.total = start, total

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.total))

    def __len__(self) -> int:
        return self.total


def read_samples(
    source: SourceSettings,
    plan: PlanSettings,
    encoder: Encoder,
    method: Method,
    report: Path | None,
    progress: bool,
    hashes: ImageHashes | None = None,
) -> SampleStore:
    """Read, check and tokenise the training data; write the length plan to `report`, hash the images into `hashes`.

    Raises:
        UserError: faulty records, examples that do not fit, or data of the wrong kind for the method.
    """
    examples = read_examples(source, encoder.schema)
    preference = isinstance(examples[0], PreferenceExample)
    if preference != (method.sequences_per_sample == 2):
        kind = "preference pairs" if preference else "single answers"
        wanted = "preference pairs (chosen and rejected)" if method.sequences_per_sample == 2 else "single answers"
        raise UserError(f"{source.path}: holds {kind}, but recipe={method.name} trains on {wanted}.")
    if method.name == "steerlm" and not all(getattr(example, "attributes", None) for example in examples):
        missing = next(example.id for example in examples if not example.attributes)
        raise UserError(
            f"{source.path}: recipe=steerlm needs attributes with every example; {missing} has none. Build the set with "
            "scripts/build.py method=steerlm."
        )
    samples, lengths = plan_lengths(examples, encoder, plan, progress, hashes)
    if report is not None:
        lengths.write(report)
    return samples
