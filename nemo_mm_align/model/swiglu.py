"""SwiGLU (Shazeer, arXiv 2002.05202) as one function: what it keeps is its input, what it writes it writes once.

megatron-core's plain way keeps silu(gate) beside its input, adds an offset of zero to the other half, and joins the halves of the
gradient in a pass of their own. Its fused way (`bias_activation_fusion`) keeps the input alone as well, but is `torch.compile`,
which compiles for row lengths that come up, on a CPU for 20 s.

Shapes: S sequence, B rows, F width of this rank's part of the feed-forward layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from torch import Tensor

from nemo_mm_align.model.layer_config import LayerConfig


def swiglu(gate_up: Tensor) -> Tensor:
    """Return silu(gate) x up, [..., F], of [..., 2 F] with all of gate before all of up."""
    result: Tensor = _SwiGLU.apply(gate_up)
    return result


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
        torch.ops.aten.silu.out(gate, out=grad_up).mul_(grad)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grad_gate_up


class _DecoderMLP(MLP):
    """megatron-core's feed-forward layer without biases; the lever ``mlp`` chooses `swiglu`."""

    parts: MLPSubmodules

    def __init__(self, config: LayerConfig) -> None:
        super().__init__(config, self.parts, ffn_hidden_size=config.ffn_hidden_size)

    def forward(
        self, hidden_states: Tensor, per_token_scale: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output, [S, B, H], and no bias."""
        if "mlp" not in self.config.levers:
            plain: tuple[Tensor, Tensor | None] = super().forward(hidden_states, per_token_scale, **kwargs)
            return plain
        gate_up, _ = self.linear_fc1(hidden_states)
        output: tuple[Tensor, Tensor | None] = self.linear_fc2(swiglu(gate_up))
        return output


def decoder_mlp(parts: MLPSubmodules) -> type:
    """The decoder's feed-forward layer of these linear classes. A class: of specs that it does not know megatron-core warns."""
    return type("DecoderMLP", (_DecoderMLP,), {"parts": parts})
