"""Core attention of every layer: plain causal rows, shared-prefix rows, bidirectional image patches, cached decoding.

Shapes: S query positions, T key positions (cached ones included), B rows, N query heads, G key/value heads, D head
width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn


def segment_mask(segment_ids_BS: Tensor) -> Tensor:
    """Which position may look at which, for rows whose branches share a prefix.

    Rows without prefix and branches (`Places.has_branches`) need none: plain causal attention gives the same.

    Args:
        segment_ids_BS: -1 padding, 0 shared prefix, k >= 1 branch k. A plain row is all 1, padding on the right.

    Returns:
        Boolean [B, 1, S, S], True where attention is allowed: causal, and the key lies in the query's own segment or in
        the prefix.
    """
    length = segment_ids_BS.shape[1]
    causal_SS = torch.ones(length, length, dtype=torch.bool, device=segment_ids_BS.device).tril()
    query_BS1, key_B1S = segment_ids_BS.unsqueeze(2), segment_ids_BS.unsqueeze(1)
    return (causal_SS & ((query_BS1 == key_B1S) | (key_B1S == 0))).unsqueeze(1)


class CoreAttention(nn.Module):
    """Scaled dot-product attention with grouped heads; the mask says who sees whom.

    `attention_mask` is boolean [B, 1, S, T], True where attention is allowed (torch's convention, not megatron's);
    ``None`` is plain causal for the decoder and unmasked for the vision tower. With a cache attached (see
    `KeyValueCache`), new keys and values are stored and the old ones take part.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        softmax_scale: float | None = None,
        **unused: Any,
    ) -> None:
        super().__init__()
        self.layer_number = layer_number
        self.causal = attn_mask_type == AttnMaskType.causal
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        self.cache: KeyValueCache | None = None

    def forward(
        self,
        query_SBND: Tensor,
        key_SBGD: Tensor,
        value_SBGD: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """Return the attended values, [S, B, N * D]."""
        assert attention_bias is None and packed_seq_params is None
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query_SBND, key_SBGD, value_SBGD))
        if self.cache is not None:
            key, value = self.cache.extend(self.layer_number, key, value)
        length, rows = query_SBND.shape[:2]
        repeats = query.shape[1] // key.shape[1]
        if length == 1 and repeats > 1:  # one query per head: a group's heads stand side by side as its queries
            output = F.scaled_dot_product_attention(
                query.reshape(rows, -1, repeats, query.shape[3]), key, value, attn_mask=attention_mask, scale=self.scale
            )
            return output.reshape(1, rows, -1)
        grouped = repeats > 1
        if grouped and not _kernel_knows_groups(query, attention_mask):
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
            grouped = False
        causal = self.causal and attention_mask is None and length > 1
        output_BNSD = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, is_causal=causal, scale=self.scale, enable_gqa=grouped
        )
        return output_BNSD.permute(2, 0, 1, 3).reshape(length, rows, -1)


def _kernel_knows_groups(query: Tensor, attention_mask: Tensor | None) -> bool:
    """Whether a kernel that stores no scores takes grouped heads: flash does, for 16 bits and without a mask.

    The CPU's and the memory-efficient one want equal heads; with groups torch would fall back to storing all scores.
    """
    return query.is_cuda and attention_mask is None and query.dtype != torch.float32


class KeyValueCache:
    """Keys and values of the positions already computed, for all layers of one pipeline stage.

    Args:
        model: module whose `CoreAttention` layers with causal attention are to be cached.
        max_length: positions that fit.
    """

    def __init__(self, model: nn.Module, max_length: int) -> None:
        self._layers = [m for m in model.modules() if isinstance(m, CoreAttention) and m.causal]
        self.max_length = max_length
        self._stored: dict[int, tuple[Tensor, Tensor]] = {}
        self._window: tuple[Tensor, int] | None = None
        self.length = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Use this cache in forward passes of the model within the block."""
        for layer in self._layers:
            layer.cache = self
        try:
            yield
        finally:
            for layer in self._layers:
                layer.cache = None

    @contextmanager
    def window(self, column_1: Tensor, end: int) -> Iterator[None]:
        """Within the block one new position goes to the column that `column_1` names, and attention reads up to `end`.

        Nothing then depends on numbers that only the host knows, as a recorded graph needs it; the mask must hide the columns
        that hold nothing yet.
        """
        self._window = (column_1, end)
        try:
            yield
        finally:
            self._window = None

    def extend(self, layer_number: int, key_BGSD: Tensor, value_BGSD: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values and return all of them, [B, G, T, D] each."""
        end = self.length + key_BGSD.shape[2]
        if end > self.max_length:
            raise ValueError(f"cache of {self.max_length} positions asked to hold {end}")
        if layer_number not in self._stored:
            rows, groups, _, width = key_BGSD.shape
            shape = (rows, groups, self.max_length, width)  # a head's positions side by side: 4 times faster to read
            # Zeros: whatever else lies behind the mask might be NaN, which no weight of zero removes.
            self._stored[layer_number] = (key_BGSD.new_zeros(shape), value_BGSD.new_zeros(shape))
        stored_key, stored_value = self._stored[layer_number]
        if self._window is not None:
            column_1, end = self._window
            stored_key.index_copy_(2, column_1, key_BGSD)
            stored_value.index_copy_(2, column_1, value_BGSD)
            return stored_key[:, :, :end], stored_value[:, :, :end]
        stored_key[:, :, self.length : end], stored_value[:, :, self.length : end] = key_BGSD, value_BGSD
        return stored_key[:, :, :end], stored_value[:, :, :end]

    def advance(self, positions: int) -> None:
        """Count `positions` as computed; call once after each forward pass."""
        self.length += positions

    def select_rows(self, rows: Tensor) -> None:
        """Keep, drop or repeat batch rows: row i of the cache becomes old row ``rows[i]``."""
        for number, (key, value) in self._stored.items():  # layer by layer: never a second copy of the whole cache
            self._stored[number] = (self._select(key, rows), self._select(value, rows))

    def _select(self, stored_BGTD: Tensor, rows: Tensor) -> Tensor:
        selected = stored_BGTD.new_zeros(len(rows), *stored_BGTD.shape[1:])
        selected[:, :, : self.length] = stored_BGTD[:, :, : self.length].index_select(0, rows)
        return selected
