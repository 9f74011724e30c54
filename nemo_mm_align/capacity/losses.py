"""Memory of the output layer and the log-probs of labels: what is kept, and what comes on top at the worst moment.

Plainly, the logits of all labelled positions become a softmax that is kept. Under the lever ``losses`` (see
`model.label_losses`) logits are there for a chunk of positions at a time, and none is kept.

Shapes: P labelled positions, R those of a chunk, H hidden, V vocabulary columns of this rank.
"""

from __future__ import annotations

import math

from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.model.arithmetic import chunk_rows

_INDEX = 8  # bytes of an int64
_FLOAT = 4
_LOOKED_AT = 3
"""Tensors of a chunk's logits, fp32, while its entropies are taken: probabilities, log-probabilities, their product. Training
reads entropies for its metrics."""


def logits(job: TrainingJob) -> dict[str, float]:
    """Bytes by name that the losses of a micro batch leave for the backward pass on the last stage."""
    return _in_chunks(job) if "losses" in job.levers else _at_once(job)


def _at_once(job: TrainingJob) -> dict[str, float]:
    """Softmax over this rank's vocabulary columns at labelled positions, always in fp32, and what leads to it."""
    saved: dict[str, float] = {
        "softmax": job.labelled * _columns(job) * _FLOAT,
        "labelled positions": job.labelled * 5.0 * _INDEX,
    }
    if job.trains_language:
        saved["labelled hidden states"] = job.labelled_bytes
    return saved


def _in_chunks(job: TrainingJob) -> dict[str, float]:
    """With a frozen output layer the gradient by its input is taken at once; a trained one needs that input again."""
    saved: dict[str, float] = {"labelled positions": job.labelled * 2.0 * _INDEX}
    if not job.trains_language:
        return saved | {"gradients of labelled hidden states": job.labelled_bytes}
    # The normalisers are a view of the four numbers that are found for every position.
    return saved | {"normalisers": job.labelled * 4.0 * _FLOAT, "labelled hidden states": job.labelled_bytes}


def loss_workspace(job: TrainingJob) -> float:
    """Bytes on top of the saved ones while the losses are computed, or differentiated."""
    if "losses" not in job.levers:  # logits, then their gradient, beside the fp32 softmax
        return logits(job)["softmax"] / 2 if job.element_bytes == 2 else 0.0
    if not job.labelled:
        return 0.0
    return max(forward_workspace(job), backward_workspace(job) if job.trains_language else 0.0)


def logits_without_gradients(job: TrainingJob) -> float:
    """Bytes of the logits where nothing is kept, with the copy in 16 bits that they are made from."""
    columns = _columns(job)
    positions = _chunk(job, 1) if "losses" in job.levers else job.labelled
    return positions * columns * (_FLOAT + _narrow(job))


def forward_workspace(job: TrainingJob) -> float:
    """Bytes of a chunk while it is looked at, beside all hidden states and the labelled ones, if these are not kept anyway."""
    chunk = _chunk(job, 1) * _columns(job) * _FLOAT * _LOOKED_AT
    return chunk + job.state_bytes + (0.0 if job.trains_language else job.labelled_bytes)


def backward_workspace(job: TrainingJob) -> float:
    """Bytes of a chunk's logits once more and of the weight's gradient, summed in fp32 over several."""
    hidden, element, narrow = job.config.language.hidden_size, job.element_bytes, _narrow(job)
    rows = _chunk(job, hidden)
    chunk, weight, chunks = rows * _columns(job), hidden * _columns(job), math.ceil(job.labelled / rows)
    if chunks == 1:
        at_logits, adding = 0.0, weight * element
    else:  # the first two chunks' parts, and their sum where these have 16 bits
        at_logits, adding = (
            weight * (_FLOAT if chunks > 2 else element),
            weight * (2 * element + (_FLOAT if narrow else 0)),
        )
    return max(chunk * (_FLOAT + narrow) + at_logits, chunk * element + adding) + job.labelled_bytes


def _chunk(job: TrainingJob, least: int) -> int:
    """R of a micro batch, at least so many."""
    return min(job.labelled, max(least, chunk_rows(job.labelled, job.config.language.hidden_size, _columns(job))))


def _columns(job: TrainingJob) -> float:
    """V, with padding."""
    t = job.parallel.tensor_model_parallel_size
    return job.config.padded_vocab_size(t) / t


def _narrow(job: TrainingJob) -> int:
    """Bytes of a logit's copy in 16 bits; fp32 has none."""
    return job.element_bytes if job.element_bytes < _FLOAT else 0
