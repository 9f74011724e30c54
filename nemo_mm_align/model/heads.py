"""What stands on top of a language model's hidden states beside its vocabulary.

Shapes: N hidden states, H hidden, T outputs.
"""

from __future__ import annotations

import torch
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from nemo_mm_align.model.head_config import HeadConfig


class RegressionHead(MegatronModule):
    """A linear map without bias from hidden states to T numbers, computed in fp32.

    The weight has the model's format, as megatron-core's optimizer keeps no fp32 weights beside bf16 ones in a checkpoint that
    opens at another layout; its fp32 copy is the optimizer's, like every other weight's.

    Each tensor-parallel rank of the last stage holds all of it: hidden states are whole there, and so are its gradients.
    The weight is called ``score``, as the sequence classifiers of transformers have it.

    Args:
        config: of the language model.
        head: what the outputs are.
    """

    def __init__(self, config: TransformerConfig, head: HeadConfig) -> None:
        super().__init__(config=config)
        self.head_config = head
        self.score = nn.Linear(config.hidden_size, len(head.outputs), bias=False)

    def initialize(self, seed: int) -> None:
        """Draw small weights, the same on every rank and layout."""
        generator = torch.Generator().manual_seed(seed)
        weight_TH = torch.randn(self.score.weight.shape, generator=generator) / self.score.in_features**0.5
        with torch.no_grad():
            self.score.weight.copy_(weight_TH)

    def forward(self, hidden_NH: Tensor) -> Tensor:
        """Return the outputs [N, T], fp32."""
        return nn.functional.linear(hidden_NH.float(), self.score.weight.float())
