"""LoRA adapters made part of the weights, for models that train no more."""

from __future__ import annotations

import torch
from megatron.core import parallel_state

from nemo_mm_align.model.huggingface_gather import merged_rows, tensor_parallel_place
from nemo_mm_align.model.huggingface_names import weight_pieces
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.model.lora import Adapter, adapters_of


@torch.no_grad()
def merge_adapters(model: Llava) -> None:
    """Add the adapters to the weights of this rank's stage and forget them; a model without adapters stays as it is.

    W + scale * B A is computed in fp32 and rounded to the weight's number format once, matrix by matrix: nothing is exchanged
    between ranks, and no second copy of the model is made. The adapters' memory is free afterwards.

    Args:
        model: this rank's pipeline stage, with its weights loaded. It cannot go on in training as a LoRA model.
    """
    if model.lora is None:
        return
    rank, size = tensor_parallel_place()
    stage = parallel_state.get_pipeline_model_parallel_rank()
    rows, parameters = merged_rows(model), dict(model.named_parameters())
    adapters = {name for name, module in model.named_modules() if isinstance(module, Adapter)}
    for piece in weight_pieces(model.model_config, model.parallel):
        if piece.stage == stage and piece.adapter in adapters:
            weight = piece.of(parameters[piece.parameter], rank, size)
            weight.copy_(rows(piece, 0, piece.local_shape(rank, size)[0]).reshape(weight.shape))
    for _, name, _, linear in list(adapters_of(model)):
        del linear.adapters[name]
    model.lora = None
