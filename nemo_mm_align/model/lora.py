"""LoRA on megatron-core's parallel linear layers: TP, sequence parallel, resharding, local or TransformerEngine.

megatron-core fuses q, k, v into one layer and gate, up into another; here each keeps an adapter of its own, so that
parameter counts and exports are those of unfused layers. The matrix A is [rank, inputs], B is [outputs, rank].

Column-parallel layers (qkv, fc1): A on every rank, B split by outputs.
Row-parallel layers (proj, fc2): A split by inputs, B on every rank.
Shapes: S sequence (this rank's part of it under sequence parallel), B rows, R rank.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn

from nemo_mm_align.model.config import LoRAConfig
from nemo_mm_align.model.layer_config import LayerConfig
from nemo_mm_align.model.low_rank import add_product, linear_of_dropped


class Adapter(nn.Module):
    """One low-rank pair. `inputs` and `outputs` are this rank's widths."""

    def __init__(self, inputs: int, outputs: int, rank: int, config: TransformerConfig) -> None:
        super().__init__()
        device = "cpu" if config.use_cpu_initialization else torch.cuda.current_device()
        self.a = nn.Parameter(torch.empty(rank, inputs, dtype=config.params_dtype, device=device))
        self.b = nn.Parameter(torch.zeros(outputs, rank, dtype=config.params_dtype, device=device))


def _mark(parameter: nn.Parameter, split_dim: int | None, sequence_parallel: bool) -> None:
    """Tell megatron-core how a parameter is spread: split along a dimension, or a copy on every rank."""
    if split_dim is not None:
        set_tensor_model_parallel_attributes(parameter, True, split_dim, 1)
    elif sequence_parallel:
        # Each rank sees part of the sequence: the gradient is summed over TP.
        parameter.sequence_parallel = True  # type: ignore[attr-defined]


class _LoRALinear:
    """What both kinds share; mixed in before a megatron-core linear class."""

    adapters: nn.ModuleDict
    adapter_axes: dict[str, int]
    layers: LayerConfig

    def _set_up(self, lora: LoRAConfig, config: LayerConfig) -> None:
        self.lora, self.layers = lora, config
        self.lora_group = parallel_state.get_tensor_model_parallel_group()
        self.lora_sequence_parallel = config.sequence_parallel and self.lora_group.size() > 1
        self.adapters = nn.ModuleDict()

    def _low(self, input_SBH: Tensor, a: Tensor, parallel_input: bool) -> Tensor:
        """What the matrices A make of the input behind dropout, [S, B, rows of `a`]."""
        if not self.lora.dropout or not self.training:  # type: ignore[attr-defined]
            return F.linear(input_SBH, a)
        # Ranks that hold different values draw different masks, ranks that hold copies draw the same.
        split = parallel_input or self.lora_sequence_parallel
        with tensor_parallel.get_cuda_rng_tracker().fork() if split else nullcontext():
            if "dropout" in self.layers.levers:
                return linear_of_dropped(input_SBH, a, self.lora.dropout)
            dropped = F.dropout(input_SBH, self.lora.dropout)
        return F.linear(dropped, a)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None) -> dict:
        """The layer's own entries, with each adapter matrix split or copied as it really is."""
        sharded = super().sharded_state_dict(prefix, sharded_offsets, metadata)  # type: ignore[misc]
        names = {name: parameter for name, parameter in self.adapters.named_parameters(prefix="adapters")}
        axes = {f"adapters.{name}": axis for name, axis in self.adapter_axes.items()}
        sharded.update(
            make_sharded_tensors_for_checkpoint(
                names, prefix, axes, sharded_offsets,
                tp_group=self.lora_group, dp_cp_group=(metadata or {}).get("dp_cp_group"),
            )
        )  # fmt: skip
        return sharded


class _LoRAColumn(_LoRALinear):
    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        lora: LoRAConfig,
        outputs: dict[str, int],
        join: Callable[[dict[str, Tensor]], Tensor],
        config: LayerConfig,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_size, output_size, config=config, **kwargs)  # type: ignore[call-arg]
        self._set_up(lora, config)
        self.outputs, self.join = {name: size // self.lora_group.size() for name, size in outputs.items()}, join
        for name in outputs:
            if name in lora.targets:
                adapter = Adapter(input_size, self.outputs[name], lora.rank, config)
                _mark(adapter.a, None, self.lora_sequence_parallel)
                _mark(adapter.b, 0, False)
                self.adapters[name] = adapter
        self.adapter_axes = {f"{name}.b": 0 for name in self.adapters}

    def forward(self, input_SBH: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the layer's output with the adapters' added, [S, B, outputs of this rank], and its bias."""
        output, bias = super().forward(input_SBH)  # type: ignore[misc]
        if not self.adapters:  # they are part of the weight: `merge_adapters`
            return output, bias
        joined = torch.cat([adapter.a for adapter in self.adapters.values()])  # type: ignore[misc]
        low = self._low(input_SBH, joined, parallel_input=False)
        if self.lora_sequence_parallel:
            low = tensor_parallel.gather_from_sequence_parallel_region(low, group=self.lora_group)
        else:
            low = tensor_parallel.copy_to_tensor_model_parallel_region(low, group=self.lora_group)
        if "lora" in self.layers.levers:
            return add_product(output, low, self.lora.scale, *self._ups()), bias
        parts = dict(zip(self.adapters, low.split(self.lora.rank, dim=-1), strict=True))
        deltas = {}
        for name, size in self.outputs.items():
            if name in parts:
                deltas[name] = F.linear(parts[name], self.adapters[name].b)  # type: ignore[arg-type]
            else:
                deltas[name] = output.new_zeros(*output.shape[:-1], size)
        return output + self.lora.scale * self.join(deltas), bias

    def _ups(self) -> tuple[list[Tensor], list[int]]:
        """Matrices B as `add_product` takes them, each with its first column.

        Where each adapter's outputs lie side by side, it is theirs alone. Else all are blocks of one matrix whose columns are
        joined like the outputs: zeros are multiplied, and the outputs are gone over once.
        """
        given: dict[str, Tensor] = {name: adapter.b.t() for name, adapter in self.adapters.items()}  # type: ignore[union-attr, operator]
        if self.join is gate_up_join:
            starts = dict(zip(self.outputs, itertools.accumulate(self.outputs.values(), initial=0), strict=False))
            return list(given.values()), [starts[name] for name in given]
        rank, height = self.lora.rank, self.lora.rank * len(given)
        some = next(iter(given.values()))
        blocks = {name: some.new_zeros(height, 1, width) for name, width in self.outputs.items()}
        for number, (name, up) in enumerate(given.items()):
            before, after = number * rank, height - (number + 1) * rank
            blocks[name] = F.pad(up, (0, 0, before, after)).unsqueeze(1)
        return [self.join(blocks).squeeze(1)], [0]


class _LoRARow(_LoRALinear):
    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        lora: LoRAConfig,
        name: str,
        config: LayerConfig,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_size, output_size, config=config, **kwargs)  # type: ignore[call-arg]
        self._set_up(lora, config)
        adapter = Adapter(input_size // self.lora_group.size(), output_size, lora.rank, config)
        _mark(adapter.a, 1, False)
        _mark(adapter.b, None, self.lora_sequence_parallel)
        self.adapters[name] = adapter
        self.adapter_axes = {f"{name}.a": 1}

    def forward(self, input_SBH: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the layer's output with the adapter's added, [S, B, outputs], and its bias."""
        output, bias = super().forward(input_SBH)  # type: ignore[misc]
        if not self.adapters:  # they are part of the weight: `merge_adapters`
            return output, bias
        (adapter,) = self.adapters.values()
        low = self._low(input_SBH, adapter.a, parallel_input=True)  # type: ignore[arg-type]
        if self.lora_sequence_parallel:
            low = tensor_parallel.reduce_scatter_to_sequence_parallel_region(low, group=self.lora_group)
        else:
            low = tensor_parallel.reduce_from_tensor_model_parallel_region(low, group=self.lora_group)
        if "lora" in self.layers.levers:
            return add_product(output, low, self.lora.scale, [adapter.b.t()], [0]), bias  # type: ignore[operator]
        return output + self.lora.scale * F.linear(low, adapter.b), bias  # type: ignore[arg-type]


def lora_column(linear: type) -> type:
    """A column-parallel class with adapters, of megatron-core's local or TransformerEngine kind."""
    return type(f"LoRA{linear.__name__}", (_LoRAColumn, linear), {})


def lora_row(linear: type) -> type:
    """A row-parallel class with an adapter, of megatron-core's local or TransformerEngine kind."""
    return type(f"LoRA{linear.__name__}", (_LoRARow, linear), {})


class QKVJoin:
    """Bring q, k, v into megatron-core's fused order: for each key/value head its query heads, its key, its value."""

    def __init__(self, head_width: int) -> None:
        self.head_width = head_width

    def __call__(self, parts: dict[str, Tensor]) -> Tensor:
        """Join [S, B, heads * D] tensors ``q``, ``k``, ``v`` into one of [S, B, (N + 2 G) * D]."""
        groups = parts["k"].shape[-1] // self.head_width
        shaped = [parts[name].unflatten(-1, (groups, -1)) for name in ("q", "k", "v")]
        return torch.cat(shaped, dim=-1).flatten(-2)


def gate_up_join(parts: dict[str, Tensor]) -> Tensor:
    """Bring gate and up into megatron-core's fused order on this rank: all of gate, then all of up."""
    return torch.cat([parts["gate"], parts["up"]], dim=-1)


def adapters_of(model: nn.Module) -> Iterator[tuple[int, str, Adapter, Any]]:
    """Yield (layer number from 1 over all stages, q|k|v|o|gate|up|down, adapter, linear layer) of a model's part."""
    for layer in model.modules():
        number = getattr(layer, "layer_number", None)
        if number is None or not hasattr(layer, "self_attention"):
            continue
        for linear in layer.modules():
            if isinstance(linear, _LoRALinear):
                for name, adapter in linear.adapters.items():
                    yield number, name, adapter, linear  # type: ignore[misc]


def initialize_adapters(model: nn.Module, seed: int) -> None:
    """Give A its start (Kaiming uniform, as in PEFT) and B zeros, the same whole matrices in every layout."""
    for number, name, adapter, linear in adapters_of(model):
        generator = torch.Generator().manual_seed(seed ^ zlib.crc32(f"{number}.{name}".encode()))
        split = f"{name}.a" in linear.adapter_axes
        group = linear.lora_group
        width = adapter.a.shape[1] * (group.size() if split else 1)
        bound = 1.0 / math.sqrt(width)  # kaiming_uniform_(a=sqrt(5))
        whole = torch.rand(adapter.a.shape[0], width, generator=generator) * 2 * bound - bound
        own = whole.chunk(group.size(), dim=1)[group.rank()] if split else whole
        with torch.no_grad():
            adapter.a.copy_(own)
            adapter.b.zero_()


def trainable_names(model: nn.Module) -> Sequence[str]:
    """Names of the parameters that training changes."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
