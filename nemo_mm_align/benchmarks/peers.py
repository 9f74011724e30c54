"""The peers that transformers is: its LLaVA, set up as strongly as its own options allow; TRL is in `trl_peer`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.benchmarks.random_models import IMAGE_ID, PAD_ID
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.parallel.optim_config import OptimConfig


def import_llava() -> Any:
    """transformers' class."""
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration


def load_llava(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Open a folder with transformers, in fp32 unless asked otherwise, the vision tower frozen."""
    model = import_llava().from_pretrained(folder, attn_implementation="sdpa", dtype=dtype)
    model.model.vision_tower.requires_grad_(False)
    return model


def adamw(parameters: Iterable[torch.nn.Parameter], optim: OptimConfig) -> torch.optim.AdamW:
    """torch's fused AdamW with the engine's settings."""
    return torch.optim.AdamW(
        parameters, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay, fused=True
    )


class TransformersSft:
    """transformers' LLaVA in train(), fp32, sdpa, with torch's fused AdamW and clipping, on one batch of single answers."""

    def __init__(self, folder: Path, samples: Sequence[Sample], pixels_NCHW: torch.Tensor, optim: OptimConfig) -> None:
        self.model = load_llava(folder).train()
        self.batch = {**padded_rows(samples), "pixel_values": pixels_NCHW}
        self.clip = optim.clip_grad
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = adamw(self.parameters, optim)

    def step(self) -> float:
        """One optimizer step; return its loss."""
        loss = self.model(**self.batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss)


def padded_rows(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """Rows of single answers as transformers takes them: ids, attention mask and labels [B, S], padded on the right."""
    rows = [(sequence.ids, sequence.loss_mask) for sample in samples for sequence in sample.sequences]
    length = max(len(ids) for ids, _ in rows)

    def padded(values: list[int], fill: int) -> list[int]:
        return values + [fill] * (length - len(values))

    labels = [[token if counted else -100 for token, counted in zip(*row, strict=True)] for row in rows]
    return {
        "input_ids": torch.tensor([padded(ids, PAD_ID) for ids, _ in rows]),
        "attention_mask": torch.tensor([padded([1] * len(ids), 0) for ids, _ in rows]),
        "labels": torch.tensor([padded(row, -100) for row in labels]),
    }


def greedy(
    model: Any, prompts: Sequence[list[int]], pixels_NCHW: torch.Tensor, new_tokens: int, end_id: int | None = None
) -> list[list[int]]:
    """Decode `new_tokens` tokens per prompt with transformers' generate: fp32, sdpa, its default (dynamic) cache.

    Args:
        end_id: token that ends an answer, which is padded behind it; None: nothing ends one early.
    """
    length = max(map(len, prompts))
    ids = torch.tensor([[PAD_ID] * (length - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=pixels_NCHW,
            do_sample=False,
            max_new_tokens=new_tokens,
            eos_token_id=end_id,
            pad_token_id=PAD_ID,
            suppress_tokens=[IMAGE_ID],
        )
    tokens: list[list[int]] = output[:, length:].tolist()
    return tokens
