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
from nemo_mm_align.model.label_losses import label_losses
from nemo_mm_align.model.plain_decoder import is_plain, rotation_of, run_layer
from nemo_mm_align.model.rotary import RotaryPositions

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

    rotary_pos_emb: RotaryPositions

    def __init__(self, *args: Any, real_vocab_size: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.real_vocab_size = real_vocab_size
        self.rotary_pos_emb = RotaryPositions(self.rotary_pos_emb, self.config)
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
        hidden_PH, labels_P = hidden_SBH.flatten(0, 1).index_select(0, places_P), labels_N.index_select(0, places_P)
        looked_at = self._in_chunks if "losses" in self.config.levers else self._at_once
        losses_P, entropies_P, highest_P = looked_at(hidden_PH, labels_P, distribution)
        values = [losses_P]
        if distribution:
            values += [entropies_P, (highest_P + losses_P.detach() <= _TIE).float()]

        def everywhere(values_P: Tensor) -> Tensor:
            values_SB = values_P.new_zeros(len(labels_N)).index_put((places_P,), values_P).view(labels_SB.shape)
            return values_SB.transpose(0, 1).contiguous()

        return [everywhere(values_P) for values_P in values]

    def _at_once(self, hidden_PH: Tensor, labels_P: Tensor, distribution: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, entropy and highest log-probability of every position, [P]; the latter two are 0 where nobody asks."""
        logits_P1V = self._logits(hidden_PH.unsqueeze(1))
        # Before the loss, which overwrites fp32 logits.
        summary = summarise_logits(logits_P1V.detach().squeeze(1)) if distribution else None
        losses_P = tensor_parallel.vocab_parallel_cross_entropy(logits_P1V, labels_P.unsqueeze(1)).squeeze(1)
        entropies_P, highest_P = summary or (torch.zeros_like(losses_P), torch.zeros_like(losses_P))
        return losses_P, entropies_P, highest_P

    def _in_chunks(self, hidden_PH: Tensor, labels_P: Tensor, distribution: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The same; see `label_losses`."""
        return label_losses(
            self._copied(hidden_PH), self._output_weight(), labels_P, self.real_vocab_size, distribution
        )

    def _output_weight(self) -> Tensor:
        """This rank's rows of the output layer, which may be the embedding's."""
        weight = self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        result: Tensor = self.output_layer.weight if weight is None else weight
        return result

    def _copied(self, hidden: Tensor) -> Tensor:
        """The same, and its gradient is summed over the ranks that hold columns of the vocabulary."""
        if not torch.is_grad_enabled():
            return hidden
        group = parallel_state.get_tensor_model_parallel_group()
        return tensor_parallel.copy_to_tensor_model_parallel_region(hidden, group=group)

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
        logits_SBV = torch.nn.functional.linear(self._copied(hidden_SBH), self._output_weight())
        columns = logits_SBV.shape[-1]
        real = self.real_vocab_size - parallel_state.get_tensor_model_parallel_rank() * columns
        if real < columns:
            padded = torch.arange(columns, device=logits_SBV.device) >= real
            logits_SBV = logits_SBV.masked_fill(padded, float("-inf"))
        return logits_SBV
