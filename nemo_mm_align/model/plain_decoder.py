"""The decoder's layers without gradients: the modules of each, one after the other, and nothing between them.

megatron-core's block asks in every layer about recomputation, offloading, packed rows and its own inference, and takes cosine
and sine of the same angles twice in each. With small models, or one row at a time, that takes longer than the products do. The
operations that count are the block's own, in its order: not one bit of what comes out differs.

Shapes: S positions, B rows, H hidden, G key/value heads of this rank, Q query heads that share one of these, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.identity_op import IdentityOp
from torch import Tensor

from nemo_mm_align.model.attention import CoreAttention, RowsOfTrees

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of every position, [S, B, 1, 1, D]; the first half of the sine has its sign changed."""


def rotation_of(positions_BS: Tensor, inverse_frequencies: Tensor, dtype: torch.dtype) -> Rotation:
    """Return the rotary embedding of positions, computed in fp32 and rounded to `dtype`.

    Args:
        positions_BS: rotary position of every token.
        inverse_frequencies: radians per position, fp32 [D / 2].
    """
    angles = positions_BS.t()[..., None, None, None].float() * inverse_frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


def is_plain(layer: Any) -> bool:
    """Return whether `run_layer` does all that a megatron-core `TransformerLayer` does.

    A norm that is part of a product, as TransformerEngine has them, a bias, or residuals in fp32 would be lost, or done twice.
    """
    attention, mlp, config = layer.self_attention, layer.mlp, layer.config
    linears = (attention.linear_qkv, attention.linear_proj, mlp.linear_fc1, mlp.linear_fc2)
    return (
        not any(isinstance(norm, IdentityOp) for norm in (layer.input_layernorm, layer.pre_mlp_layernorm))
        and not any(hasattr(linear, "layer_norm_weight") for linear in linears)
        and isinstance(attention.core_attention, CoreAttention)
        and attention.q_layernorm is None
        and attention.k_layernorm is None
        and config.gated_linear_unit
        and not (config.add_bias_linear or config.add_qkv_bias or config.fp32_residual_connection)
        and not (config.rotary_interleaved or config.use_te_activation_func or config.glu_linear_offset)
    )


def run_layer(
    layer: Any, hidden_SBH: Tensor, mask: Tensor | None, rotation: Rotation, trees: RowsOfTrees | None = None
) -> Tensor:
    """Return what a megatron-core `TransformerLayer` of `layer_specs.decoder_layer` makes of hidden states, [S, B, H].

    Args:
        layer: the layer; see `is_plain`.
        hidden_SBH: this rank's share of the sequence with sequence parallelism.
        mask, trees: see `CoreAttention`.
        rotation: of the whole sequence.
    """
    return _fed_forward(layer, _attended(layer, hidden_SBH, mask, rotation, trees))


def _attended(
    layer: Any, hidden_SBH: Tensor, mask: Tensor | None, rotation: Rotation, trees: RowsOfTrees | None
) -> Tensor:
    """The first half; queries, keys and values are gone when it ends, and the wider second half has their memory."""
    attention = layer.self_attention
    joined, _ = attention.linear_qkv(layer.input_layernorm(hidden_SBH))
    query, key, value = _rotated_heads(joined, attention.num_query_groups_per_partition, rotation)
    attended = attention.core_attention(query, key, value, mask, packed_seq_params=trees)
    projected, _ = attention.linear_proj(attended)
    result: Tensor = projected.add_(hidden_SBH)
    return result


def _fed_forward(layer: Any, hidden_SBH: Tensor) -> Tensor:
    mlp = layer.mlp
    gate, up = mlp.linear_fc1(layer.pre_mlp_layernorm(hidden_SBH))[0].chunk(2, dim=-1)
    output, _ = mlp.linear_fc2(mlp.activation_func(gate).mul_(up))
    result: Tensor = output.add_(hidden_SBH)
    return result


def _rotated_heads(joined: Tensor, groups: int, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
    """Split megatron-core's fused order into queries [S, B, G * Q, D], keys and values [S, B, G, D], the former two rotated."""
    cos, sin = rotation
    width = cos.shape[-1]
    heads = joined.unflatten(-1, (groups, -1, width))  # of each group its queries, its key, its value
    turned = heads[..., :-1, :]
    turned = (turned * cos).add_(turned.roll(width // 2, dims=-1).mul_(sin))
    return turned[..., :-1, :].flatten(2, 3), turned[..., -1, :], heads[..., -1, :]
