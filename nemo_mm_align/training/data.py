"""Training data of a run: records -> samples -> the micro batches of every step."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy
from torch.utils.data import Dataset, Sampler

from nemo_mm_align.capacity.operations import Work
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.collate import ImageLoader, collate
from nemo_mm_align.datasets.grouping import group_answers
from nemo_mm_align.datasets.kinds import check_kind, refuse_lacking
from nemo_mm_align.datasets.plan import PlanSettings, plan_lengths
from nemo_mm_align.datasets.rows import batch_length, row_groups
from nemo_mm_align.datasets.sample import Sample, SampleStore
from nemo_mm_align.datasets.sampler import GlobalBatchSampler
from nemo_mm_align.datasets.sources import SourceSettings, read_examples
from nemo_mm_align.model.arithmetic import round_up
from nemo_mm_align.objectives.objective import TOKEN_LOSSES, Objective, Reads
from nemo_mm_align.recipes.spec import RecipeSpec
from nemo_mm_align.schema.crops import Crop
from nemo_mm_align.schema.examples import Example
from nemo_mm_align.schema.image_hashes import ImageHashes
from nemo_mm_align.schema.images import ImageProcessor, load_image
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.training.packing import Packing
from nemo_mm_align.training.work import total_work, work_of_sample

logger = logging.getLogger(__name__)

IMAGE_CACHE_BYTES = 1 << 30
"""Of decoded images that a rank remembers."""


@dataclass(frozen=True)
class BatchShape:
    """How samples become rows.

    Args:
        length_multiple: row lengths are multiples of this, see `row_length_multiple`.
        shared_prefix: the sequences of a sample lie in one row behind their common prefix, if they see the same images.
        last_token: the last token of a sequence, which predicts nothing, is computed as well.
        equal_rows: micro batches of a step have one shape, as a pipeline wants them: equally many rows, though samples may
            differ in sequences, and of packed samples equally long ones.
    """

    length_multiple: int = 1
    shared_prefix: bool = False
    last_token: bool = False
    equal_rows: bool = False

    @property
    def identity(self) -> dict[str, int | bool]:
        """What tells it in the key of cached log-probs; what is new and unused is left out, so that old caches hold."""
        new = {"last_token": True} if self.last_token else {}
        return {"length_multiple": self.length_multiple, "shared_prefix": self.shared_prefix, **new}


class Collator:
    """Builds batches of chosen samples; decodes images only on ranks that feed them to the tower.

    Args:
        load: from where pixels come that do not lie in files; None reads and remembers files.
    """

    def __init__(
        self,
        encoder: Encoder,
        processor: ImageProcessor,
        shape: BatchShape,
        with_images: bool,
        roles: Sequence[str] = (),
        load: ImageLoader | None = None,
    ) -> None:
        self.encoder, self.shape, self.with_images, self.roles = encoder, shape, with_images, roles
        images = max(1, IMAGE_CACHE_BYTES // (3 * processor.image_size**2 * 4))
        decoded = functools.lru_cache(1)(load_image)  # the parts of an image are asked for right after it

        def pixels(path: Path, crop: Crop | None) -> numpy.ndarray:
            return processor(decoded(path) if crop is None else crop(decoded(path)))

        self._pixels = functools.lru_cache(images)(pixels) if load is None else lambda path, crop: load(path)

    def length(self, samples: Sequence[Sample]) -> int:
        """Common row length of the samples of a step."""
        shape = self.shape
        return batch_length(samples, shape.length_multiple, shape.shared_prefix, shape.last_token)

    def rows(self, samples: Sequence[Sample]) -> int:
        """How many rows the samples of a micro batch make."""
        return sum(len(row_groups(sample, self.shape.shared_prefix)) for sample in samples)

    def batches(self, parts: Sequence[Sequence[Sample]], length: int) -> list[Batch]:
        """Build the micro batches that follow each other through a model, with equally many rows if the shape says so."""
        rows = max(map(self.rows, parts)) if self.shape.equal_rows else 0
        return [self(part, length, rows) for part in parts]

    def packed(self, parts: Sequence[Sequence[Sample]], positions: Sequence[int]) -> list[Batch]:
        """Build them of one row each, as long as its samples, and with equal lengths if the shape says so.

        Args:
            positions: of the rows of each part's samples, without padding.
        """
        lengths = [round_up(count, self.shape.length_multiple) for count in positions]
        if self.shape.equal_rows:
            lengths = [max(lengths)] * len(parts)
        return [self(part, length, packed=True) for part, length in zip(parts, lengths, strict=True)]

    def __call__(self, samples: Sequence[Sample], length: int, least_rows: int = 0, packed: bool = False) -> Batch:
        """Build one micro batch of rows of `length`, at least so many, or of one row of all samples."""
        return collate(
            samples,
            length,
            self.encoder.pad_id,
            self.encoder.image_token_id,
            self.encoder.tokens_per_image,
            self._load if self.with_images else None,
            self.shape.shared_prefix,
            self.shape.last_token,
            self.roles,
            least_rows,
            packed,
        )

    def _load(self, path: Path, crop: Crop | None) -> numpy.ndarray:
        pixels: numpy.ndarray = self._pixels(path, crop)
        return pixels


@dataclass(frozen=True)
class StepBatches:
    """This rank's share of a training step, its micro batches, and what all ranks do in it."""

    batches: list[Batch]
    work: Work
    mismatched: list[Batch] = field(default_factory=list)
    """What the objective's point is measured on, where it has one; micro batches of the same samples."""

    def pin_memory(self) -> StepBatches:
        """Return the same in pinned memory; torch's loader calls this."""
        batches, mismatched = ([batch.pin_memory() for batch in part] for part in (self.batches, self.mismatched))
        return replace(self, batches=batches, mismatched=mismatched)


class StepDataset(Dataset[StepBatches]):
    """Item i is this rank's part of training step i.

    Args:
        mismatched: of every sample, see `datasets.mismatched`; None where the objective has no point.
        packing: micro batches of a budget of positions; None: of as many samples as the sampler says.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        sampler: GlobalBatchSampler,
        collator: Collator,
        data_parallel_rank: int,
        reads: Reads = TOKEN_LOSSES,
        mismatched: Sequence[Sample] | None = None,
        packing: Packing | None = None,
    ) -> None:
        self.mismatched, self.packing = mismatched, packing
        self.samples, self.sampler, self.collator, self.rank = samples, sampler, collator, data_parallel_rank
        self.reads = reads

    def __getitem__(self, step: int) -> StepBatches:
        chosen = self._chosen(step, self.samples)
        works = self._works(chosen)
        mismatched = [] if self.mismatched is None else self._batches(self._chosen(step, self.mismatched))
        return StepBatches(self._batches(chosen, works), total_work(works), mismatched)

    def _chosen(self, step: int, samples: Sequence[Sample]) -> list[Sample]:
        return [samples[index] for index in self.sampler.global_batch(step)]

    def _works(self, chosen: Sequence[Sample]) -> list[Work]:
        """What each of the whole step's samples asks of the model."""
        return [work_of_sample(sample, self.collator.shape.shared_prefix, self.reads) for sample in chosen]

    def _batches(self, chosen: Sequence[Sample], works: Sequence[Work] | None = None) -> list[Batch]:
        """This rank's micro batches of the whole step's samples; their work is counted where packing asks and nobody has."""
        if self.packing is None:
            parts = [[chosen[place] for place in part] for part in self.sampler.micro_batches(self.rank)]
            return self.collator.batches(parts, self.collator.length(chosen))
        works = self._works(chosen) if works is None else works
        places = self.packing.micro_batches(works, self.rank)
        positions = [sum(int(works[place].tokens) for place in part) for part in places]
        return self.collator.packed([[chosen[place] for place in part] for part in places], positions)


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
    recipe: RecipeSpec,
    objective: Objective,
    report: Path | None,
    progress: bool,
    hashes: ImageHashes | None = None,
) -> SampleStore:
    """Read, check and tokenise the training data; write the length plan to `report`, hash the images into `hashes`.

    Raises:
        UserError: faulty records, examples that do not fit, or data of the wrong kind for the recipe.
    """
    examples = read_examples(source, encoder.schema)
    return make_samples(examples, source.path, plan, encoder, recipe, objective, report, progress, hashes)


def make_samples(
    examples: Sequence[Example],
    path: str,
    plan: PlanSettings,
    encoder: Encoder,
    recipe: RecipeSpec,
    objective: Objective,
    report: Path | None,
    progress: bool,
    hashes: ImageHashes | None = None,
) -> SampleStore:
    """Do the same with examples that have been read from `path`."""
    check_kind(recipe.samples, examples, path, recipe.name, recipe.build_method)
    refuse_lacking(objective.lacks(examples), path, recipe.name, recipe.build_method)
    kind = objective.sample_kind(recipe.samples)
    samples, lengths = plan_lengths(examples, encoder, plan, kind, progress, hashes)
    if report is not None:
        lengths.write(report)
    if not objective.answers_grouped:
        return samples
    grouped = group_answers(samples, encoder.image_token_id, plan.max_length)
    logger.info("%d answers in %d rows: those to one prompt share it", len(samples), len(grouped))
    return grouped
