"""Core attention of every layer: plain causal rows, shared-prefix rows, bidirectional image patches, cached decoding.

Shapes: S query positions, T key positions (cached ones included), B rows, N query heads, G key/value heads, D head
width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from nemo_mm_align.model import packed_attention, tree_attention
from nemo_mm_align.model.packed_attention import Packing
from nemo_mm_align.model.trees import Trees


def segment_mask(segment_ids_BS: Tensor, tree_ids_BS: Tensor | None = None) -> Tensor:
    """Which position may look at which, for rows whose branches share a prefix.

    Rows without prefix and branches (`Places.has_branches`) need none: plain causal attention gives the same.

    Args:
        segment_ids_BS: -1 padding, 0 shared prefix, k >= 1 branch k. A plain row is all 1, padding on the right.
        tree_ids_BS: the tree that each position belongs to, where a row has several; a branch number occurs once in a row.

    Returns:
        Boolean [B, 1, S, S], True where attention is allowed: causal, and the key lies in the query's own segment or in
        the prefix of its tree.
    """
    length = segment_ids_BS.shape[1]
    causal_SS = torch.ones(length, length, dtype=torch.bool, device=segment_ids_BS.device).tril()
    query_BS1, key_B1S = segment_ids_BS.unsqueeze(2), segment_ids_BS.unsqueeze(1)
    seen_BSS = causal_SS & ((query_BS1 == key_B1S) | (key_B1S == 0))
    if tree_ids_BS is not None:
        seen_BSS &= tree_ids_BS.unsqueeze(2) == tree_ids_BS.unsqueeze(1)
    return seen_BSS.unsqueeze(1)


@dataclass
class RowsOfTrees(PackedSeqParams):
    """Rows of trees on their way through megatron-core's layers, in place of a mask.

    They travel as packed sequences do: megatron-core's recomputation keeps these with the layers that it will run again,
    whatever other micro batches come between. The format says that rows are what they always are, so that nothing but
    `CoreAttention` asks.
    """

    qkv_format: str = "sbhd"
    trees: Trees = field(default_factory=lambda: Trees((), 0))
    packing: Packing | None = None

    @classmethod
    def on(cls, device: torch.device, trees: Trees) -> RowsOfTrees:
        """Make them ready for a device."""
        return cls(trees=trees, packing=Packing.of(trees, device) if device.type == "cuda" else None)

    def attend(self, query_SBND: Tensor, key_SBGD: Tensor, value_SBGD: Tensor, scale: float) -> Tensor:
        """Scaled dot-product attention within trees, [S, B, N * D]; what stands in the padding is finite and means nothing."""
        given = query_SBND, key_SBGD, value_SBGD
        if self.packing is not None:
            return packed_attention.attend(*given, self.packing, scale).flatten(2)
        output_SBND: Tensor = tree_attention.TreeAttention.apply(*given, self.trees, scale)
        return output_SBND.flatten(2)


class CoreAttention(nn.Module):
    """Scaled dot-product attention with grouped heads; the mask says who sees whom.

    `attention_mask` is boolean [B, 1, S, T], True where attention is allowed (torch's convention, not megatron's);
    ``None`` is plain causal for the decoder and unmasked for the vision tower. `packed_seq_params` says the same of rows of trees
    without a mask. With a cache attached (see `KeyValueCache`), new keys and values are stored and the old ones take part.
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
        packed_seq_params: RowsOfTrees | None = None,
    ) -> Tensor:
        """Return the attended values, [S, B, N * D]."""
        assert attention_bias is None
        if packed_seq_params is not None:
            assert attention_mask is None and self.cache is None and self.causal
            return packed_seq_params.attend(query_SBND, key_SBGD, value_SBGD, self.scale)
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

    It has slots: a sequence's position number t lies in column t of its slot, whatever lies in the others. A pass of the
    model goes on within `prefilling` or `stepping`, which say where its keys and values belong.

    Args:
        model: module whose `CoreAttention` layers with causal attention are to be cached.
        slots: sequences that fit.
        length: positions that fit, of each.
    """

    def __init__(self, model: nn.Module, slots: int, length: int) -> None:
        self._layers = [m for m in model.modules() if isinstance(m, CoreAttention) and m.causal]
        self.slots, self.length = slots, length
        self._stored: dict[int, tuple[Tensor, Tensor]] = {}
        self._place: _Prompts | _Continued | _Step | None = None

    @contextmanager
    def prefilling(self, slots_R: Tensor, prompts_R: Tensor) -> Iterator[None]:
        """Within the block whole prompts are computed, each from column 0 on.

        Args:
            slots_R: where keys and values go; a prompt may go to several slots.
            prompts_R: whose they are, counted by the rows that are computed.
        """
        with self._attached(_Prompts(slots_R, prompts_R)):
            yield

    @contextmanager
    def continuing(self, slots_P: Tensor, columns_PS: Tensor, end: int) -> Iterator[None]:
        """Within the block prompts are gone on with whose first positions lie in their slots already.

        Args:
            slots_P: of each prompt, no two the same.
            columns_PS: where each new position belongs.
            end: columns that attention reads; the mask must hide those that hold nothing of their row.
        """
        with self._attached(_Continued(slots_P, columns_PS, end)):
            yield

    @contextmanager
    def stepping(self, columns: int | Tensor, end: int) -> Iterator[None]:
        """Within the block one new position is computed for each of the first B slots.

        Args:
            columns: where it belongs: one number for all, or each slot's own on the device, int64 [B]. A recorded graph
                reads them anew each time; nothing else in it may depend on numbers that only the host knows.
            end: columns that attention reads; the mask must hide those that hold nothing of their row.
        """
        with self._attached(_Step(columns, end)):
            yield

    @contextmanager
    def _attached(self, place: _Prompts | _Continued | _Step) -> Iterator[None]:
        self._place = place
        for layer in self._layers:
            vars(layer)["cache"] = self  # past the module's own __setattr__, which takes longer than a small product
        try:
            yield
        finally:
            self._place = None
            for layer in self._layers:
                vars(layer)["cache"] = None

    def extend(self, layer_number: int, key_BGSD: Tensor, value_BGSD: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values and return what is to be attended to, [B, G, T, D] each."""
        if layer_number not in self._stored:
            _, groups, _, width = key_BGSD.shape
            shape = (self.slots, groups, self.length, width)  # a head's positions side by side: 4 times faster to read
            # Zeros: whatever else lies behind the mask might be NaN, which no weight of zero removes.
            self._stored[layer_number] = (key_BGSD.new_zeros(shape), value_BGSD.new_zeros(shape))
        assert self._place is not None
        key, value = self._stored[layer_number]
        return self._place.store(key, key_BGSD), self._place.store(value, value_BGSD)

    def move(self, sources: Tensor, targets: Tensor, length: int) -> None:
        """Copy the first `length` columns of some slots to others."""
        for stored in self._stored.values():  # layer by layer: never a second copy of the whole cache
            for tensor in stored:
                columns = tensor[:, :, :length]
                columns.index_copy_(0, targets, columns.index_select(0, sources))


@dataclass(frozen=True)
class _Prompts:
    """Keys and values of whole prompts: attention among themselves, with nothing of the cache."""

    slots_R: Tensor
    prompts_R: Tensor

    def store(self, stored_BGTD: Tensor, new_PGSD: Tensor) -> Tensor:
        columns = stored_BGTD[:, :, : new_PGSD.shape[2]]
        columns.index_copy_(0, self.slots_R, new_PGSD.index_select(0, self.prompts_R))
        return new_PGSD


@dataclass(frozen=True)
class _Continued:
    """Keys and values of the last positions of prompts, beside the first ones in their slots."""

    slots_P: Tensor
    columns_PS: Tensor
    end: int

    def store(self, stored_BGTD: Tensor, new_PGSD: Tensor) -> Tensor:
        columns = stored_BGTD[:, :, : self.end]
        rows_PGTD = columns.index_select(0, self.slots_P)
        rows_PGTD.scatter_(2, self.columns_PS[:, None, :, None].expand_as(new_PGSD), new_PGSD)
        columns.index_copy_(0, self.slots_P, rows_PGTD)
        return rows_PGTD


@dataclass(frozen=True)
class _Step:
    """Keys and values of one position per slot, beside what the slot holds."""

    columns: int | Tensor
    end: int

    def store(self, stored_BGTD: Tensor, new_BG1D: Tensor) -> Tensor:
        rows = stored_BGTD[: len(new_BG1D)]
        if isinstance(self.columns, int):
            rows[:, :, self.columns : self.columns + 1] = new_BG1D
        else:
            rows.scatter_(2, self.columns.view(-1, 1, 1, 1).expand_as(new_BG1D), new_BG1D)
        return rows[:, :, : self.end]
