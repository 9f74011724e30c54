"""What ``model.micro_batch_tokens`` means to a run: its packing, what it refuses, and how many samples padded passes take."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.capacity.operations import model_flops
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.rows import row_lengths
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.model.arithmetic import round_down, round_up, row_length_multiple
from nemo_mm_align.training.packing import Packing
from nemo_mm_align.training.settings import TrainSettings
from nemo_mm_align.training.work import work_of_sample


def packing_of(settings: TrainSettings, job: TrainingJob, replicas: int) -> Packing | None:
    """Return how a run's steps are laid out; None where micro batches have a fixed number of samples."""
    if settings.model.micro_batch_tokens is None:
        return None
    equal = settings.parallel.pipeline_model_parallel_size > 1
    return Packing(job.row_length, replicas, functools.partial(model_flops, job), equal)


def check_budget(settings: TrainSettings, samples: Iterable[Sample]) -> None:
    """Refuse samples that a packed row has no room for.

    Raises:
        UserError: names the longest one, and what would do.
    """
    tokens, multiple = settings.model.micro_batch_tokens, row_length_multiple(settings.parallel, settings.engine)
    if tokens is None:
        return
    lengths = [(_positions(settings, sample), sample.id) for sample in samples]
    too_long = [found for found in lengths if found[0] > round_down(tokens, multiple)]
    if not too_long:
        return
    most, name = max(too_long)
    raise UserError(
        f"model.micro_batch_tokens={tokens}: {len(too_long)} of {len(lengths)} examples have more positions, the longest is "
        f"{name} with {most}, all its sequences counted. Set it to at least {round_up(most, multiple)}, or leave long examples "
        "out (model.max_length, data.on_too_long=drop)."
    )


def samples_of_padded_pass(settings: TrainSettings, samples: Iterable[Sample]) -> int:
    """Return how many samples go through the model at a time where each has rows of its own: in validation, in the image probe.

    As many as in training, or as fit ``model.micro_batch_tokens`` where each has as many and as long rows as any of `samples`.
    """
    tokens, multiple = settings.model.micro_batch_tokens, row_length_multiple(settings.parallel, settings.engine)
    if tokens is None:
        return settings.model.micro_batch_size
    recipe = settings.recipe
    lengths = [row_lengths(sample, recipe.rows_shared, recipe.reads.hidden is not None) for sample in samples]
    return max(1, tokens // (max(map(len, lengths)) * round_up(max(map(max, lengths)), multiple)))


def _positions(settings: TrainSettings, sample: Sample) -> int:
    return int(work_of_sample(sample, settings.recipe.rows_shared, settings.recipe.reads).tokens)
