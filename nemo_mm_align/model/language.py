"""megatron-core's GPTModel that ends with hidden states; losses computed where they count, padded vocabulary shut out.

Shapes: B rows, S sequence, H hidden, V vocabulary columns of this rank, P labelled positions of the micro batch.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from nemo_mm_align.model.attention import RowsOfTrees
from nemo_mm_align.model.distribution import summarise_logits
from nemo_mm_align.model.plain_decoder import is_plain, rotation_of, run_layer

IGNORE_INDEX = -100

_TIE = 1e-5
"""Nats that a label may lie below the most likely token and still share its place: both are rounded."""


class LanguageModel(GPTModel):
    """A decoder stage.

    Args:
        real_vocab_size: tokens that exist; the columns beyond it, there for tensor parallelism, get minus infinity.

    Attributes:
        is_plain: whether `run_plainly` does all that `forward` does.
    """

    def __init__(self, *args: Any, real_vocab_size: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.real_vocab_size = real_vocab_size
        self.is_plain = all(map(is_plain, self.decoder.layers))

    def run_plainly(
        self, positions_BS: Tensor, mask: Tensor | None, hidden_SBH: Tensor | None, trees: RowsOfTrees | None = None
    ) -> Tensor:
        """Return what `forward` does, by the shortest way there is without gradients, dropout and FP8; see `plain_decoder`.

        Args:
            positions_BS: rotary position of every token.
            mask, trees: see `CoreAttention`.
            hidden_SBH: embeddings; ``None`` behind the first stage, which was given its input (`set_input_tensor`).
        """
        if hidden_SBH is None:
            hidden_SBH = self.decoder.input_tensor
        assert hidden_SBH is not None
        rotation = rotation_of(positions_BS, self.rotary_pos_emb.inv_freq, hidden_SBH.dtype)
        for layer in self.decoder.layers:
            hidden_SBH = run_layer(layer, hidden_SBH, mask, rotation, trees)
        if self.decoder.final_layernorm is not None:
            hidden_SBH = self.decoder.final_layernorm(hidden_SBH)
        return self._postprocess(hidden_SBH)

    def _postprocess(self, hidden_states: Tensor, **unused: Any) -> Tensor:
        """Return hidden states: of this stage's share of the sequence, on the last stage of all of it, [S, B, H]."""
        return self._whole_sequence(hidden_states) if self.post_process else hidden_states

    def token_losses(self, hidden_SBH: Tensor, labels_BS: Tensor, label_places_P: Tensor | None = None) -> Tensor:
        """Return -log p of every label, [B, S] in nats, 0 where there is none.

        Args:
            hidden_SBH: what the last stage's forward pass returned.
            labels_BS: next token at every position, -100 where no loss is wanted.
            label_places_P: where a label stands in the flattened [S, B]; ``None`` looks, which waits for a GPU.
        """
        return self._at_labels(hidden_SBH, labels_BS, label_places_P, distribution=False)[0]

    def token_statistics(
        self, hidden_SBH: Tensor, labels_BS: Tensor, label_places_P: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return `token_losses`, the entropy of the distribution that each label was drawn from, nats, and where a label has
        the highest probability (1; a shared first place counts), all [B, S] and 0 where there is no label."""
        losses_BS, entropies_BS, right_BS = self._at_labels(hidden_SBH, labels_BS, label_places_P, distribution=True)
        return losses_BS, entropies_BS, right_BS

    def _at_labels(
        self, hidden_SBH: Tensor, labels_BS: Tensor, label_places_P: Tensor | None, distribution: bool
    ) -> list[Tensor]:
        labels_SB = labels_BS.transpose(0, 1)
        labels_N, places_P = labels_SB.flatten(), label_places_P
        if places_P is None:
            places_P = (labels_N != IGNORE_INDEX).nonzero().squeeze(1)
        # Only these positions need the output layer. [P, 1, H]: megatron-core's linears take three dimensions.
        hidden_P1H = hidden_SBH.flatten(0, 1).index_select(0, places_P).unsqueeze(1)
        logits_P1V = self._logits(hidden_P1H)
        # Before the loss, which overwrites fp32 logits.
        summary = summarise_logits(logits_P1V.detach().squeeze(1)) if distribution else None
        losses_P = tensor_parallel.vocab_parallel_cross_entropy(
            logits_P1V, labels_N.index_select(0, places_P).unsqueeze(1)
        ).squeeze(1)
        values = [losses_P]
        if summary is not None:
            entropies_P, highest_P = summary
            values += [entropies_P, (highest_P + losses_P.detach() <= _TIE).float()]

        def everywhere(values_P: Tensor) -> Tensor:
            values_SB = values_P.new_zeros(len(labels_N)).index_put((places_P,), values_P).view(labels_SB.shape)
            return values_SB.transpose(0, 1).contiguous()

        return [everywhere(values_P) for values_P in values]

    def logits(self, hidden_SBH: Tensor) -> Tensor:
        """Return the logits of this rank's vocabulary columns, [B, S, V], of the last stage's hidden states or some of them."""
        logits_BSV: Tensor = self._logits(hidden_SBH).transpose(0, 1).contiguous()
        return logits_BSV

    def _whole_sequence(self, hidden_SBH: Tensor) -> Tensor:
        if not self.config.sequence_parallel:
            return hidden_SBH
        return tensor_parallel.gather_from_sequence_parallel_region(hidden_SBH, tensor_parallel_output_grad=False)

    def _logits(self, hidden_SBH: Tensor) -> Tensor:
        """Logits of this rank's columns, [S, B, V]."""
        weight = self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        weight = self.output_layer.weight if weight is None else weight
        group = parallel_state.get_tensor_model_parallel_group()
        if torch.is_grad_enabled():  # for its gradient alone
            hidden_SBH = tensor_parallel.copy_to_tensor_model_parallel_region(hidden_SBH, group=group)
        logits_SBV = torch.nn.functional.linear(hidden_SBH, weight)
        columns = logits_SBV.shape[-1]
        real = self.real_vocab_size - group.rank() * columns
        if real < columns:
            padded = torch.arange(columns, device=logits_SBV.device) >= real
            logits_SBV = logits_SBV.masked_fill(padded, float("-inf"))
        return logits_SBV
