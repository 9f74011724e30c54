"""Linear layers of the local implementation: megatron-core's, as one plain product where nothing is communicated.

megatron-core's own forward pass runs every product through a Python autograd function that knows sequence parallelism,
asynchronous reduction and fused gradient accumulation. Small models spend more time there than in the product itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.tensor_parallel.mappings import reduce_from_tensor_model_parallel_region
from torch import Tensor


class LocalColumnLinear(ColumnParallelLinear):
    """Output features split over the tensor-parallel ranks."""

    def forward(
        self, input_: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output of this rank's features, [S, B, features], and the bias if it is left to the caller."""
        split = self.output_size_per_partition != self.output_size
        if weight is not None or runtime_gather_output or self.gather_output or _communicates(self, split):
            return super().forward(input_, weight, runtime_gather_output)
        if self.skip_bias_add:
            return F.linear(input_, self.weight), self.bias
        return F.linear(input_, self.weight, self.bias), None


class LocalRowLinear(RowParallelLinear):
    """Input features split over the tensor-parallel ranks."""

    def forward(self, input_: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the summed output, [S, B, features], and the bias if it is left to the caller."""
        split = self.input_size_per_partition != self.input_size
        if not self.input_is_parallel or _communicates(self, split):
            return super().forward(input_)
        output = F.linear(input_, self.weight)
        if split:
            output = reduce_from_tensor_model_parallel_region(output, group=self.tp_group)
        if self.skip_bias_add:
            return output, self.bias
        return (output if self.bias is None else output + self.bias), None


def _communicates(layer: ColumnParallelLinear | RowParallelLinear, split: bool) -> bool:
    """Whether the layer's gradient or its sequence needs more than the product."""
    return bool(
        layer.sequence_parallel
        or layer.explicit_expert_comm
        or layer.gradient_accumulation_fusion
        or (split and torch.is_grad_enabled())
    )
