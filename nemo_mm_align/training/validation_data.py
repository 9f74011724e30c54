"""The data of a run: what is trained on, and what is held out to validate with."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_mm_align.core.run_files import LENGTH_PLAN_FILE, VALIDATION_PLAN_FILE
from nemo_mm_align.datasets.held_out import hold_out
from nemo_mm_align.datasets.mismatched import mismatched_samples
from nemo_mm_align.datasets.sample import Sample, SampleStore
from nemo_mm_align.datasets.sources import SourceSettings, read_examples
from nemo_mm_align.schema.examples import Example
from nemo_mm_align.schema.image_hashes import ImageHashes
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.training.data import make_samples
from nemo_mm_align.training.packing_settings import check_budget
from nemo_mm_align.training.settings import TrainSettings
from nemo_mm_align.training.watch_checks import named

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """Samples to train on, and held-out ones, None where nothing is to be validated.

    Of both the mismatched ones (`datasets.mismatched`), where the objective has a point.
    """

    training: SampleStore
    validation: SampleStore | None = None
    mismatched: SampleStore | None = None
    mismatched_validation: SampleStore | None = None


def read_run_data(
    settings: TrainSettings, encoder: Encoder, folder: Path | None, progress: bool, hashes: ImageHashes
) -> RunData:
    """Read, check and tokenise all data, training data first.

    Args:
        folder: of the run, which the length plans are written to; None writes none.
        hashes: of the images, which are hashed here.

    Raises:
        UserError: faulty records, examples that do not fit, data of the wrong kind, or nothing left to train or validate on.
    """
    examples, held_out, source = _examples(settings, encoder)
    training = _samples(
        settings, examples, settings.source, encoder, folder and folder / LENGTH_PLAN_FILE, progress, hashes
    )
    if hint := settings.recipe.hint(Counter(role for sample in training for role in sample.roles)):
        logger.warning("%s: %s", settings.source.path, hint)
    mismatched = _mismatched(settings, training, hashes)
    for samples in (training, mismatched or ()):
        check_budget(settings, samples)
    if source is None:
        return RunData(training, mismatched=mismatched)
    with named(source.path):
        validation = _samples(
            settings, held_out, source, encoder, folder and folder / VALIDATION_PLAN_FILE, progress, hashes
        )
        mismatched_validation = _mismatched(settings, validation, hashes)
    logger.info("%d samples to train on, %d held out for validation", len(training), len(validation))
    warn_of_overlap(training, validation, hashes.of)
    return RunData(training, validation, mismatched, mismatched_validation)


def _examples(settings: TrainSettings, encoder: Encoder) -> tuple[list[Example], list[Example], SourceSettings | None]:
    """Return what is trained on, what is held out, and where that comes from; None where nothing is held out."""
    examples, share = read_examples(settings.source, encoder.schema), settings.data.validation_share
    if share is not None:
        return *hold_out(examples, share, settings.source.path), settings.source
    source = settings.data.validation_source()
    if source is None:
        return examples, [], None
    with named(source.path):
        return examples, read_examples(source, encoder.schema), source


def _mismatched(settings: TrainSettings, samples: SampleStore, hashes: ImageHashes) -> SampleStore | None:
    if not settings.recipe.has_point:
        return None
    return mismatched_samples(samples, settings.plan.max_length, hashes.of)


def _samples(
    settings: TrainSettings,
    examples: Sequence[Example],
    source: SourceSettings,
    encoder: Encoder,
    report: Path | None,
    progress: bool,
    hashes: ImageHashes,
) -> SampleStore:
    return make_samples(
        examples, source.path, settings.plan, encoder, settings.spec, settings.recipe, report, progress, hashes
    )


def warn_of_overlap(training: Sequence[Sample], validation: Sequence[Sample], hash_of: Callable[[Path], str]) -> None:
    """Warn of held-out prompts that are trained on too, by what they are and not by their ids; pictures by their bytes."""
    prompts = {key for sample in training for key in _prompts(sample, hash_of)}
    contents = {_content(sample, hash_of) for sample in training}
    shared = sum(any(key in prompts for key in _prompts(sample, hash_of)) for sample in validation)
    same = sum(_content(sample, hash_of) in contents for sample in validation)
    if shared:
        logger.warning(
            "%d of %d held-out samples ask what the training data ask as well, %d of them with the same answers: what was "
            "learned by heart looks good there. Take them out of one of the two",
            shared,
            len(validation),
            same,
        )


def _prompts(sample: Sample, hash_of: Callable[[Path], str]) -> Iterator[bytes]:
    for sequence in sample.sequences:
        yield _digest(sample, [sequence.ids[: sequence.prompt_length]], hash_of)


def _content(sample: Sample, hash_of: Callable[[Path], str]) -> bytes:
    return _digest(sample, [sequence.ids for sequence in sample.sequences], hash_of)


def _digest(sample: Sample, texts: list[list[int]], hash_of: Callable[[Path], str]) -> bytes:
    return hashlib.sha256(repr(([hash_of(path) for path in sample.image_paths], texts)).encode()).digest()
