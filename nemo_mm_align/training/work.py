"""What samples ask of a model, counted from their tokens: the numerator of a run's tokens per second and of its MFU."""

from __future__ import annotations

from collections.abc import Iterable

from nemo_mm_align.capacity.operations import Work
from nemo_mm_align.datasets.rows import row_sequences
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.objectives.objective import TOKEN_LOSSES, Reads


def work_of(samples: Iterable[Sample], shared_prefix: bool, reads: Reads = TOKEN_LOSSES) -> Work:
    """Add up the samples' rows as `collate` lays them out, without padding; a shared prefix counts once."""
    return total_work(work_of_sample(sample, shared_prefix, reads) for sample in samples)


def total_work(parts: Iterable[Work]) -> Work:
    """Add up."""
    return sum(parts, Work(0, 0, 0, 0))


def work_of_sample(sample: Sample, shared_prefix: bool, reads: Reads) -> Work:
    """Return what one of them asks; its tokens are the positions of its rows."""
    tokens = attended = 0
    for sequences, prefix in row_sequences(sample, shared_prefix):
        branches = [len(sequence) - (reads.hidden is None) - prefix for sequence in sequences]
        tokens += prefix + sum(branches)
        attended += _causal(prefix) + sum(prefix * branch + _causal(branch) for branch in branches)
    return Work(
        tokens,
        attended,
        labelled=sum(sum(sequence.loss_mask[1:]) for sequence in sample.sequences) if reads.token_losses else 0,
        images=len(sample.image_paths) * sample.distinct_views,
    )


def _causal(length: int) -> int:
    """Pairs of positions of which the second is not after the first."""
    return length * (length + 1) // 2
