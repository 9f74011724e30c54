"""From a micro batch to what an objective reads of it.

Shapes: B rows, S positions, H hidden, Q sequences of the micro batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.model.attention import segment_mask
from nemo_mm_align.model.head_config import Pooling
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.objectives.objective import Reading, Reads


def forward_batch(model: Any, batch: Batch) -> Tensor:
    """Run a batch through a stage, bare or wrapped for training; return its hidden states, [S, B, H]."""
    hidden_SBH: Tensor = model(
        batch.input_ids_BS,
        batch.position_ids_BS,
        segment_mask(batch.segment_ids_BS) if batch.places.has_branches else None,
        images_NCHW=batch.images_NCHW,
        image_index_K=batch.image_index_K,
    )
    return hidden_SBH


def read_batch(stage: Llava, hidden_SBH: Tensor, batch: Batch, reads: Reads) -> Reading:
    """Read the last stage's hidden states as an objective wants them."""
    token_losses_BS = entropies_BS = right_BS = hidden_QH = outputs_QT = None
    if reads.distribution:
        token_losses_BS, entropies_BS, right_BS = stage.token_statistics(
            hidden_SBH, batch.labels_BS, batch.places.label_P
        )
    elif reads.token_losses:
        token_losses_BS = stage.token_losses(hidden_SBH, batch.labels_BS, batch.places.label_P)
    if reads.hidden is not None:
        hidden_QH = pool(hidden_SBH, batch, reads.hidden)
        outputs_QT = None if stage.head is None else stage.head(hidden_QH)
    return Reading(token_losses_BS, hidden_QH, outputs_QT, entropies_BS, right_BS)


def pool(hidden_SBH: Tensor, batch: Batch, pooling: Pooling) -> Tensor:
    """Return one hidden state per sequence, [Q, H]: that of its last token, or the mean over its tokens.

    Behind a shared prefix, whose tokens belong to no sequence alone, the mean is over a sequence's own tokens.
    """
    if pooling == "last":
        return hidden_SBH.flatten(0, 1).index_select(0, batch.places.last_Q)
    hidden_AH = hidden_SBH.transpose(0, 1).flatten(0, 1).index_select(0, batch.places.answer_A)
    return torch.segment_reduce(hidden_AH.float(), "mean", lengths=batch.places.lengths_Q, unsafe=True)
