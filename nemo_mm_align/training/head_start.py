"""Where a fresh head begins: at the mean of what it is to tell, so that no training is spent on a constant.

The head has no bias: servers of classifiers take one linear map alone. What a bias would hold lies in the weight, along the
mean hidden state, which all answers have in common.

Shapes: H hidden, T outputs of the head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.inference.rating import Rater, rate_answers
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.parallel import runtime
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.schema.prompts import Encoder

_SAMPLES = 256
"""Spread over the training set; means over more of them differ by less than the first steps change."""
_DRAWN = 0.1
"""What is left of the drawn weights."""
_BATCH_TOKENS = 8192


def start_head(model: Llava, samples: Sequence[Sample], encoder: Encoder, processor: ImageProcessor) -> None:
    """Change a fresh head so that it tells the mean hidden state to have the mean targets; all ranks call it.

    With r the drawn rows times `_DRAWN`, m the mean hidden state and t the mean targets, the rows become
    r + (t - r m) m / (m m), so that of m itself the output is t. Larger rows tell answers apart by chance, which training has
    to undo; without any, nothing below the head is trained before the head has grown.

    Args:
        model: with a head, before its optimizer is made: that copies the weights.
        samples: the training set, with targets.
    """
    head = model.head_config
    assert head is not None
    chosen = samples[:: -(-len(samples) // _SAMPLES)]
    rater = Rater(model, encoder, processor, head.pooling, "hidden", _BATCH_TOKENS)
    parts = rate_answers(rater, chosen, progress=False)
    mean_H = torch.cat(parts).mean(dim=0) if parts else torch.empty(rater.width)
    mean_H = mean_H.to(runtime.device())
    torch.distributed.broadcast(mean_H, src=0)
    if model.head is not None:
        _shift(model.head.score.weight, mean_H, _mean_targets(chosen).to(mean_H))


def _mean_targets(samples: Sequence[Sample]) -> Tensor:
    """Mean of the known targets, [T]; 0 where none is known."""
    rows = numpy.array([values for sample in samples for values in sample.targets or ()], numpy.float64)
    known = ~numpy.isnan(rows)
    return torch.from_numpy(numpy.where(known, rows, 0).sum(axis=0) / known.sum(axis=0).clip(1)).float()


@torch.no_grad()
def _shift(weight_TH: Tensor, mean_H: Tensor, target_T: Tensor) -> None:
    drawn_TH = _DRAWN * weight_TH.float()
    weight_TH.copy_(drawn_TH + torch.outer(target_T - drawn_TH @ mean_H, mean_H / mean_H.square().sum()))
