"""A LLaVA that tells the attributes of an answer; transformers opens it through ``auto_map``.

    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    model(**processor(text=..., images=...)).logits      # [B, T], by config.id2label

The text is a conversation that ends with the answer to be rated, as the folder's chat template renders it: with the stop token
and nothing behind it. This file needs torch and transformers alone.

Shapes: B rows, S positions, H hidden, T outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaModel, LlavaPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

KEYS = {
    "^language_model.model": "model.language_model",
    "^language_model.lm_head": "lm_head",
    "^language_model.score": "score",
    "^vision_tower": "model.vision_tower",
    "^multi_modal_projector": "model.multi_modal_projector",
}
"""Where the tensors of a file belong: within the language model, as transformers 4.51 named its parts and vLLM does. Dots stand
as they are, since transformers turns these patterns round as texts to save a model."""


class LlavaForSequenceClassification(LlavaPreTrainedModel):  # type: ignore[misc]
    """LLaVA with one linear layer without bias over a pooled hidden state, computed in fp32.

    ``config.attribute_pooling`` says which hidden state that is: ``last``, of the row's last token, or ``mean``, over all tokens
    of the row. Padding, on either side, counts for neither; ``attention_mask`` says where it is.
    """

    _auto_class = "AutoModelForSequenceClassification"  # `save_pretrained` copies this file, whoever was opened before
    _checkpoint_conversion_mapping = KEYS
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"^language_model\.lm_head\."]
    _keep_in_fp32_modules_strict = ["score"]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.pooling = getattr(config, "attribute_pooling", "last")
        if self.pooling not in ("last", "mean"):
            raise ValueError(f"attribute_pooling={self.pooling!r} in config.json: choose from last, mean")
        self.model = LlavaModel(config)
        self.score = nn.Linear(config.text_config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Any:
        """Open a folder; its keys are mapped here, as versions of transformers look for a class's own mapping or do not."""
        options.setdefault("key_mapping", KEYS)
        return super().from_pretrained(*arguments, **options)

    def get_input_embeddings(self) -> Any:
        """The language model's."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        """Set the language model's."""
        self.model.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        **others: Any,
    ) -> SequenceClassifierOutput:
        """Rate a batch.

        Args:
            input_ids: [B, S], the image token once per image embedding, as `LlavaProcessor` makes them.
            attention_mask: [B, S], 0 where a row is padded.
            pixel_values: of all images, row by row.
            labels: [B, T], NaN where a value is not known; the loss is the mean squared error over the known ones.

        Returns:
            ``logits`` [B, T] in fp32, not clamped, and ``loss`` where there are labels.
        """
        inputs = others.get("inputs_embeds") if input_ids is None else input_ids
        if inputs is None:
            raise ValueError("give input_ids or inputs_embeds")
        if attention_mask is None:
            attention_mask = torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device)
        others.setdefault("position_ids", (attention_mask.cumsum(-1) - 1).clamp(min=0))
        others.update(use_cache=False, return_dict=True)
        hidden_BSH = self.model(
            input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values, **others
        ).last_hidden_state
        logits_BT = nn.functional.linear(self._pool(hidden_BSH, attention_mask), self.score.weight.float())
        loss = None if labels is None else _squared_error(logits_BT, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits_BT)

    def _pool(self, hidden_BSH: Tensor, mask_BS: Tensor) -> Tensor:
        mask_BS = mask_BS.to(hidden_BSH.device)
        if self.pooling == "last":
            places_S = torch.arange(mask_BS.shape[1], device=mask_BS.device)
            last_B = (places_S * (mask_BS != 0)).argmax(-1)
            return hidden_BSH[torch.arange(len(last_B), device=last_B.device), last_B].float()
        inside_BS1 = (mask_BS != 0).unsqueeze(-1)
        return (hidden_BSH.float() * inside_BS1).sum(1) / inside_BS1.sum(1)


def _squared_error(logits_BT: Tensor, labels_BT: Tensor) -> Tensor:
    labels_BT = labels_BT.to(logits_BT)
    known_BT = ~labels_BT.isnan()
    return (logits_BT - labels_BT)[known_BT].square().mean()
