"""Reference log-probs of answers: computed once by the model as it stands before training, cached, never guessed.

A cache file belongs to one combination of weights, template, image processing, precision, layout and row shape; within
it each line belongs to the token ids and image bytes of one sample. What is missing is computed, what is there is reused,
and since the key holds everything the numbers depend on, a stale value cannot be taken.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor
from tqdm import tqdm

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.hashing import hash_json
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.sample import Sample, SampleStore
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.objectives.objective import TOKEN_LOSSES, Reading
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.stopping import StopRequest
from nemo_mm_align.schema.records import RecordAppender
from nemo_mm_align.training.data import Collator
from nemo_mm_align.training.reference_passes import Passes
from nemo_mm_align.training.schedule import run_schedule

logger = logging.getLogger(__name__)


def settings_key(**settings: Any) -> str:
    """Hash everything beside the sample that a log-prob depends on."""
    return hash_json(settings)


def sample_key(sample: Sample, hash_of: Callable[[Path], str]) -> str:
    """Return what tells a sample by its token ids, its loss masks, the bytes of its images and the parts of them it sees."""
    digest = hashlib.sha256()
    for path in sample.image_paths:
        digest.update(hash_of(path).encode())
    for sequence in sample.sequences:
        digest.update(repr((sequence.ids, sequence.loss_mask)).encode())
    if any(sample.views):
        digest.update(repr(sample.views).encode())
    return digest.hexdigest()[:24]


@dataclass
class ReferenceCache:
    """Cached sums of answer log-probs, one file per replica of the model, all of them read.

    Args:
        folder: where the files lie; runs may share it.
        key: see `settings_key`.
    """

    folder: Path
    key: str

    def read(self) -> dict[str, list[float]]:
        """Return sample key -> log-probs from the files of all replicas; a torn last line is left out."""
        found: dict[str, list[float]] = {}
        for path in sorted(self.folder.glob(f"{self.key}.*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # the line that a killed run was writing
                found[entry["sample"]] = entry["log_probs"]
        return found

    def appender(self) -> RecordAppender:
        """Open this replica's file for new lines."""
        return RecordAppender(self.folder / f"{self.key}.{runtime.data_parallel_rank():05d}.jsonl")


def _log_probs(reading: Reading, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    sums_Q = -batch.sum_per_sequence(reading.token_losses_BS)
    return reading.token_losses_BS.sum(), torch.tensor(1, dtype=torch.int), sums_Q.detach().clone()


@torch.no_grad()
def compute(model: Llava, batches: Sequence[Batch]) -> Tensor:
    """Return summed answer log-probs, [Q] in nats, of all sequences of micro batches of one shape, on every stage."""
    reports = run_schedule(model, batches, TOKEN_LOSSES, _log_probs, forward_only=True)
    count = sum(batch.num_sequences for batch in batches)
    sums_Q = torch.cat(reports) if reports else torch.zeros(count, device=runtime.device())
    return runtime.broadcast_from_last_stage(sums_Q.float())


def fill(
    model: Llava,
    samples: Sequence[Sample],
    collator: Collator,
    cache: ReferenceCache,
    passes: Passes,
    progress: bool,
    stop: StopRequest,
    hash_of: Callable[[Path], str],
) -> list[list[float]]:
    """Return the reference log-probs of all samples, computing those that are not cached; all ranks call it.

    Args:
        model: weights as they stand before training; put into evaluation mode meanwhile.
        samples: the training set, the same on all ranks.
        passes: how many samples the model takes at a time.
        stop: looked at between passes; what has been computed by then stays in the cache.
        hash_of: maps an image to the SHA-256 of its bytes.

    Raises:
        Stopped: on all ranks, if any was asked to.
    """
    keys = [sample_key(sample, hash_of) for sample in samples]
    known = cache.read()
    missing = sorted(
        {key: index for index, key in enumerate(keys) if key not in known}.values(),
        key=lambda index: -max(len(sequence) for sequence in samples[index].sequences),
    )
    torch.distributed.barrier()  # nobody appends before everybody has read
    if missing:
        training = model.training
        model.eval()
        _compute_missing(model, samples, keys, missing, collator, cache, passes, progress, stop)
        model.train(training)
        torch.distributed.barrier()
        known = cache.read()
    logger.info("reference log-probs: %d samples, %d computed now, the rest cached", len(samples), len(missing))
    lost = [sample.id for sample, key in zip(samples, keys, strict=True) if key not in known]
    if lost:
        raise UserError(
            f"{cache.folder}: log-probs of {len(lost)} samples were not found after writing; is it a shared folder?"
        )
    return [known[key] for key in keys]


def _compute_missing(
    model: Llava,
    samples: Sequence[Sample],
    keys: Sequence[str],
    missing: Sequence[int],
    collator: Collator,
    cache: ReferenceCache,
    passes: Passes,
    progress: bool,
    stop: StopRequest,
) -> None:
    replicas, own = runtime.data_parallel_size(), runtime.data_parallel_rank()
    mine = missing[own::replicas]
    writes = parallel_state.get_tensor_model_parallel_rank() == 0 and runtime.is_last_stage()
    appender = cache.appender() if writes else None
    try:
        most = len(missing[::replicas])  # the first replica's share: all count as many rounds, to agree in each
        for start in tqdm(range(0, most, passes.samples), "reference log-probs", disable=not progress):
            stop.check()
            if start >= len(mine):
                continue
            indices = mine[start : start + passes.samples]
            chosen = [samples[index] for index in indices]
            length = collator.length(chosen)
            values: list[float] = []
            for parts in passes.schedules(chosen):
                values += compute(model, collator.batches(parts, length)).tolist()
            if appender is not None:
                _write(appender, [keys[index] for index in indices], chosen, values)
    finally:
        if appender is not None:
            appender.close()


def _write(appender: RecordAppender, keys: Iterable[str], samples: Iterable[Sample], values: list[float]) -> None:
    position = 0
    for key, sample in zip(keys, samples, strict=True):
        count = len(sample.sequences)
        appender.append({"sample": key, "log_probs": values[position : position + count]})
        position += count


def attach(
    model: Llava,
    samples: SampleStore,
    collator: Collator,
    cache: ReferenceCache,
    passes: Passes,
    progress: bool,
    stop: StopRequest,
    hash_of: Callable[[Path], str],
) -> None:
    """Give every sample its reference log-probs, those of prior sequences too; arguments and errors as those of `fill`.

    Priors have passes of their own: the others' rows are those of training, whether priors are needed or not.
    """

    def told(chosen: SampleStore) -> list[list[float]]:
        return fill(model, chosen, collator, cache, passes, progress, stop, hash_of)

    for index, log_probs in enumerate(told(samples)):
        samples.set_reference_log_probs(index, log_probs)
    places, priors = _priors(samples)
    if places:
        for index, log_probs in zip(places, told(priors), strict=True):
            samples.set_prior_log_probs(index, log_probs)


def _priors(samples: SampleStore) -> tuple[list[int], SampleStore]:
    """Return where samples with prior sequences stand, and samples of these."""
    places, priors = [], SampleStore()
    for index, sample in enumerate(samples):
        if (prior := sample.prior) is not None:
            places.append(index)
            priors.append(prior)
    return places, priors


def check_stored(samples: Sequence[Sample]) -> None:
    """Raise `UserError` where a record brought no reference log-probs of its own."""
    lacking = next((sample for sample in samples if not sample.reference_log_probs), None)
    if lacking is not None:
        raise UserError(
            f"recipe.use_stored_reference=true, but not every record has reference log-probs: {lacking.id} has none of all its "
            f"{len(lacking.sequences)} sequences. Set it to false to have them computed."
        )
