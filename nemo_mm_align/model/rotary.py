"""Rotary positions (Su et al., arXiv 2104.09864) of queries and keys in one function that keeps none of its input.

A rotation's gradient is the rotation by the opposite angle, so that cosines and sines are all it needs. These are taken once for
all layers of a pass; megatron-core takes them twice in each. Queries and keys are rotated on their way out of the joined
product, values are left where they are.

Shapes: S sequence, B rows, G key/value heads of this rank, Q query heads that share one of these, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.attention import SelfAttention
from torch import Tensor, nn

from nemo_mm_align.model.layer_config import LayerConfig
from nemo_mm_align.model.plain_decoder import rotation_of


class RotaryPositions(nn.Module):
    """megatron-core's angles, or what the lever ``rope`` has of them: cosine and signed sine, [2, S, B, 1, 1, D].

    Args:
        angles: megatron-core's module for rotary positions.
        config: of the decoder.
    """

    def __init__(self, angles: nn.Module, config: LayerConfig) -> None:
        super().__init__()
        self.angles, self.config = angles, config

    @property
    def inv_freq(self) -> Tensor:
        """Radians per position, fp32 [D / 2]."""
        frequencies: Tensor = self.angles.inv_freq  # type: ignore[assignment]
        return frequencies

    def forward(self, position_ids_3BS: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return what each attention layer is given; the three rows of positions are the same."""
        if "rope" not in self.config.levers:
            plain: Tensor = self.angles(position_ids_3BS, *args, **kwargs)
            return plain
        return torch.stack(rotation_of(position_ids_3BS[0], self.inv_freq, self.config.params_dtype))


class DecoderAttention(SelfAttention):
    """megatron-core's self-attention; under the lever ``rope`` its queries and keys are rotated where they are split."""

    _rotation: Tensor | None = None

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any,
        *args: Any,
        rotary_pos_emb: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the projected output, [S, B, H], and no bias."""
        if "rope" in self.config.levers:
            self._rotation, rotary_pos_emb = rotary_pos_emb, None
        try:
            output: tuple[Tensor, Tensor | None] = super().forward(
                hidden_states, attention_mask, *args, rotary_pos_emb=rotary_pos_emb, **kwargs
            )
        finally:
            self._rotation = None
        return output

    def get_query_key_value_tensors(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return queries [S, B, G * Q, D], keys and values [S, B, G, D]."""
        if self._rotation is None:
            return super().get_query_key_value_tensors(hidden_states, *args, **kwargs)
        joined, _ = self.linear_qkv(hidden_states)
        return rotated_heads(joined, self._rotation, self.num_query_groups_per_partition)


def rotated_heads(joined: Tensor, rotation: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split megatron-core's joined heads and rotate queries and keys.

    Args:
        joined: of each group its queries, its key, its value, [S, B, G * (Q + 2) * D].
        rotation: see `RotaryPositions`.

    Returns:
        Queries [S, B, G * Q, D], keys and values [S, B, G, D].
    """
    query, key, value = _RotatedHeads.apply(joined, rotation, groups)
    return query.flatten(2, 3), key.squeeze(3), value


class _RotatedHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, joined: Tensor, rotation: Tensor, groups: int) -> tuple[Tensor, ...]:
        heads = joined.unflatten(-1, (groups, -1, rotation.shape[-1]))
        ctx.save_for_backward(rotation)
        query, key = torch.empty_like(heads[..., :-2, :]), torch.empty_like(heads[..., -2:-1, :])
        cos, sin = rotation
        _rotate(heads[..., :-2, :], cos, sin, out=query)
        _rotate(heads[..., -2:-1, :], cos, sin, out=key)
        return query, key, heads[..., -1, :].clone()

    @staticmethod
    def backward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, None, None]:
        (rotation,) = ctx.saved_tensors
        length, rows, groups, queries, width = query.shape
        joined = query.new_empty(length, rows, groups, queries + 2, width)
        cos, sin = rotation[0], -rotation[1]
        _rotate(query, cos, sin, out=joined[..., :-2, :])
        _rotate(key, cos, sin, out=joined[..., -2:-1, :])
        joined[..., -1, :] = value
        return joined.flatten(2), None, None


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Write the rotated heads; the first half of `sin` has its sign changed."""
    half = heads.shape[-1] // 2
    torch.mul(heads, cos, out=out)
    out[..., :half].addcmul_(heads[..., half:], sin[..., :half])
    out[..., half:].addcmul_(heads[..., :half], sin[..., half:])
