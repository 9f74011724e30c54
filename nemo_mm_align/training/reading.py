"""From a micro batch to what an objective reads of it.

Shapes: B rows, S positions, N all of them (B x S), H hidden, Q sequences of the micro batch, T trees, A chosen positions.
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
    stage: Llava = getattr(model, "module", model)
    trees, mask = batch.places.trees, None
    if trees is not None and not stage.attends_by_trees(trees):
        trees, mask = None, segment_mask(batch.segment_ids_BS, batch.tree_ids_BS)
    hidden_SBH: Tensor = model(
        batch.input_ids_BS,
        batch.position_ids_BS,
        mask,
        images_NCHW=batch.images_NCHW,
        image_index_K=batch.image_index_K,
        trees=trees,
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
    """Return one hidden state per sequence, [Q, H]: that of its last token, or the mean over all its tokens, in fp32.

    The mean takes in the prompt, also where it lies in front of several answers as their shared prefix: it depends neither on
    how many answers a prompt has nor on how they are laid out.
    """
    places = batch.places
    if pooling == "last":
        return hidden_SBH.flatten(0, 1).index_select(0, places.last_Q)
    hidden_NH = hidden_SBH.transpose(0, 1).flatten(0, 1)
    sums_QH, lengths_Q = _sums(hidden_NH, places.answer_A, places.lengths_Q), places.lengths_Q
    if places.has_branches:
        prefix_TH = _sums(hidden_NH, places.prefix_A, places.prefix_lengths_T)
        sums_QH = sums_QH + prefix_TH.index_select(0, places.tree_Q)
        lengths_Q = lengths_Q + places.prefix_lengths_T.index_select(0, places.tree_Q)
    return sums_QH / lengths_Q.unsqueeze(1)


def _sums(hidden_NH: Tensor, chosen_A: Tensor, lengths: Tensor) -> Tensor:
    """Add up the chosen hidden states, so many for each sum."""
    return torch.segment_reduce(hidden_NH.index_select(0, chosen_A).float(), "sum", lengths=lengths, unsafe=True)
