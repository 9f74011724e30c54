"""One rank's part in decoding: hidden states travel forward, logits are gathered, the next ids come back to everyone.

Per pass: one send and receive between neighbouring pipeline stages, one gather of logits over the
tensor-parallel ranks of the last stage, one broadcast of ids. One rank chooses, so that all agree by construction.

Shapes: B rows, S new positions, T all positions so far, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from megatron.core import parallel_state
from torch import Tensor

from nemo_mm_align.model.attention import KeyValueCache
from nemo_mm_align.model.llava import Llava


class DecodingStage:
    """A pipeline stage with its cache.

    Args:
        model: this rank's stage, built without sequence parallelism.
        slots: answers at a time.
        length: positions of each.
        kept: further slots of the cache, for prompts that are kept (`Prefixes`).

    Raises:
        ValueError: the model was built with sequence parallelism, which one new position cannot be split by.
    """

    def __init__(self, model: Llava, slots: int, length: int, kept: int = 0) -> None:
        if model.parallel.sequence_parallel:
            raise ValueError("decoding needs a model built with sequence_parallel=False")
        self.model, self.slots = model, slots
        self.cache = KeyValueCache(model, slots + kept, length)
        self._tensor_group = parallel_state.get_tensor_model_parallel_group()
        self._pipeline_group = parallel_state.get_pipeline_model_parallel_group()
        self._model_group = parallel_state.get_model_parallel_group()
        ranks = torch.distributed.get_process_group_ranks(self._model_group)
        # Ranks are numbered tensor-parallel first: the last stage's first one chooses the tokens.
        self._chooser = sorted(ranks)[len(ranks) - self._tensor_group.size()]

    def prefill(
        self,
        ids_PS: Tensor,
        last_P: Tensor,
        slots_R: Tensor,
        prompts_R: Tensor,
        image_embeddings_KTH: Tensor | None = None,
    ) -> Tensor | None:
        """Compute prompts and store them; return this rank's part of the first answer tokens' logits, as `step` does.

        Args:
            ids_PS: prompts, padded on the right.
            last_P: column of each prompt's last token.
            slots_R, prompts_R: see `KeyValueCache.prefilling`.
            image_embeddings_KTH: on the first stage, see `Llava.forward`.

        Returns:
            Logits [R, V / TP] on the last stage, None elsewhere.
        """
        prompts, length = ids_PS.shape
        positions_PS = torch.arange(length, device=ids_PS.device).expand(prompts, -1)
        with self.cache.prefilling(
            slots_R, prompts_R
        ):  # causal: what stands on the right of a prompt is not seen by it
            hidden_SPH = self._forward(ids_PS, positions_PS, None, image_embeddings_KTH)
        logits_PV = self._logits_at(hidden_SPH, last_P)
        return None if logits_PV is None else logits_PV.index_select(0, prompts_R)

    def go_on(
        self,
        ids_PS: Tensor,
        starts_P: Tensor,
        lengths_P: Tensor,
        slots_P: Tensor,
        end: int,
        image_embeddings_KTH: Tensor | None = None,
    ) -> Tensor | None:
        """Compute the rest of prompts whose first positions lie in their slots; return logits [P, V / TP] as `prefill` does.

        Args:
            ids_PS: what is left of each prompt, padded on the right.
            starts_P: how many positions lie there.
            lengths_P: how many are left, at least one each.
            slots_P: of each prompt, no two the same.
            end: positions of the longest whole prompt; the cache has one column more.
            image_embeddings_KTH: of what is left, see `Llava.forward`.
        """
        places_S = torch.arange(ids_PS.shape[1], device=ids_PS.device)
        is_padding_PS = places_S >= lengths_P.unsqueeze(1)
        columns_PS = (starts_P.unsqueeze(1) + places_S).masked_fill(is_padding_PS, end)
        mask_P1ST = (torch.arange(end + 1, device=ids_PS.device) <= columns_PS.unsqueeze(2)).unsqueeze(1)
        with self.cache.continuing(slots_P, columns_PS, end + 1):
            hidden_SPH = self._forward(ids_PS, columns_PS, mask_P1ST, image_embeddings_KTH)
        return self._logits_at(hidden_SPH, lengths_P - 1)

    def _logits_at(self, hidden_SPH: Tensor | None, places_P: Tensor) -> Tensor | None:
        if hidden_SPH is None:
            return None
        hidden_1PH = hidden_SPH.gather(0, places_P.view(1, -1, 1).expand(1, -1, hidden_SPH.shape[2]))
        return self.model.logits(hidden_1PH)[:, -1]

    def step(
        self, ids_B1: Tensor, positions_B1: Tensor, mask: Tensor | None, columns: int | Tensor, end: int
    ) -> Tensor | None:
        """Compute one more position of the first B slots; return this rank's part of its logits [B, V / TP].

        Args:
            ids_B1, positions_B1: the new tokens.
            mask: boolean [B, 1, 1, `end`], None where a row sees all of these columns.
            columns, end: see `KeyValueCache.stepping`.
        """
        with self.cache.stepping(columns, end):
            hidden_1BH = self._forward(ids_B1, positions_B1, mask)
        return None if hidden_1BH is None else self.model.logits(hidden_1BH)[:, -1]

    def _forward(
        self,
        ids_BS: Tensor,
        position_ids_BS: Tensor,
        mask: Tensor | None,
        image_embeddings_KTH: Tensor | None = None,
    ) -> Tensor | None:
        """Run this stage on what the one before it sends; return hidden states [S, B, H] on the last one."""
        if not self.model.pre_process:
            self.model.set_input_tensor(self._receive(ids_BS))
        hidden_SBH: Tensor = self.model(ids_BS, position_ids_BS, mask, image_embeddings_KTH=image_embeddings_KTH)
        if self.model.post_process:
            return hidden_SBH
        next_stage = parallel_state.get_pipeline_model_parallel_next_rank()
        torch.distributed.send(hidden_SBH.contiguous(), next_stage, group=self._pipeline_group)
        return None

    @property
    def is_whole(self) -> bool:
        """Whether the whole model lies on this rank."""
        return self._model_group.size() == 1

    def _receive(self, ids_BS: Tensor) -> Tensor:
        rows, length = ids_BS.shape
        config = self.model.config
        hidden_SBH = torch.empty(length, rows, config.hidden_size, dtype=config.params_dtype, device=ids_BS.device)
        previous = parallel_state.get_pipeline_model_parallel_prev_rank()
        torch.distributed.recv(hidden_SBH, previous, group=self._pipeline_group)
        return hidden_SBH

    def choose(self, logits_BV: Tensor | None, rows: int, choice: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the next ids, int64 [B], the same on every rank of this replica.

        Args:
            logits_BV: what `prefill` or `step` returned.
            rows: B, which inner stages cannot read off.
            choice: maps logits of the whole vocabulary [B, V] to ids [B]; runs on one rank only.
        """
        whole_BV = None if logits_BV is None else self._gather(logits_BV)
        if whole_BV is None:
            ids_B = torch.empty(rows, dtype=torch.int64, device=next(self.model.parameters()).device)
        else:
            ids_B = choice(whole_BV)
        if self._model_group.size() > 1:
            torch.distributed.broadcast(ids_B, self._chooser, group=self._model_group)
        return ids_B

    def agree(self, told: Tensor | None) -> Tensor | None:
        """Overwrite a tensor by what the rank that chooses has in it, and return it; None is nothing anywhere."""
        if told is not None and self._model_group.size() > 1:
            torch.distributed.broadcast(told, self._chooser, group=self._model_group)
        return told

    def _gather(self, logits_BV: Tensor) -> Tensor | None:
        size = self._tensor_group.size()
        if size == 1:
            return logits_BV
        logits_BV = logits_BV.contiguous()
        chooses = torch.distributed.get_rank() == self._chooser
        parts = [torch.empty_like(logits_BV) for _ in range(size)] if chooses else None
        torch.distributed.gather(logits_BV, parts, self._chooser, group=self._tensor_group)
        return None if parts is None else torch.cat(parts, dim=-1)
