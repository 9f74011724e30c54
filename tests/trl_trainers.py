"""TRL's own trainers on a tiny Hugging Face model, and what our objectives need to know of the same model and rows.

Everything runs in float64 (tests/float64.py): two ways to the same formula then differ by 1e-15, not by fp32's 1e-6.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_mm_align.benchmarks.random_models import words_tokenizer
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.sample import CHOSEN, REJECTED
from nemo_mm_align.objectives.common_metrics import common_metrics
from nemo_mm_align.objectives.objective import LossOutput, Objective, Reading, Reads

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # CPO and ORPO live in trl.experimental, which says so at every import
VOCABULARY = 40
PAIRS = (  # prompts and answers of unequal length; the chosen answer is the longer one, the shorter one and as long
    ("w9", " w5 w6 w7 w11", " w8"),
    ("w9 w10", " w12", " w8 w9 w10 w20 w30"),
    ("w14 w15 w16", " w17 w18 w19", " w21 w22 w23"),
    ("w24", " w25 w26", " w27 w28 w29"),
)


def causal_model(seed: int) -> Any:
    """A random Llama whose log-probs are far enough from another's for margins of several nats."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if parameter.ndim == 1 else 0.3 * noise)
    return model


def pair_rows(pairs: Sequence[Sequence[str]] = PAIRS) -> list[dict[str, str]]:
    """TRL's preference records of prompts with two answers."""
    return [dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)) for texts in pairs]


def make_trainer(
    trainer: type,
    config: type,
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    seeds: tuple[int, int] = (0, 1),
    **settings: Any,
) -> Any:
    """One of TRL's trainers with its default settings but those given, on the CPU, every row in one batch.

    Its model has the weights of the first seed, the reference, where the trainer takes one, those of the second.
    """
    import inspect

    from datasets import Dataset

    arguments = config(
        output_dir=str(folder), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], disable_tqdm=True,
        per_device_train_batch_size=len(rows), **settings,
    )  # fmt: skip
    models = [causal_model(seeds[0])]
    if "ref_model" in inspect.signature(trainer.__init__).parameters:
        models.append(causal_model(seeds[1]))
    data = Dataset.from_list(list(rows))
    return trainer(*models, args=arguments, train_dataset=data, processing_class=words_tokenizer(VOCABULARY))


def collated(trainer: Any) -> dict[str, Tensor]:
    """All rows of a trainer as the batch that it makes of them."""
    batch: dict[str, Tensor] = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    return batch


@dataclass(frozen=True)
class Rows:
    """Rows of token ids [B, S], which of them count (1) and which are tokens of an answer (1)."""

    input_ids_BS: Tensor
    attention_BS: Tensor
    answer_BS: Tensor

    def reading(self, model: Any) -> Reading:
        """What an engine reads of a model at the rows' answers, in our layout: a token's loss stands before the token."""
        logits_BSV = model(input_ids=self.input_ids_BS, attention_mask=self.attention_BS, use_cache=False).logits
        log_probs_BSV = logits_BSV.log_softmax(-1)
        labels_BS = self.labels_BS
        told_BS = labels_BS >= 0
        picked_BS = log_probs_BSV.gather(-1, labels_BS.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        entropies_BS = -(log_probs_BSV.exp() * log_probs_BSV).sum(-1)
        right_BS = (logits_BSV.argmax(-1) == labels_BS).double()
        return Reading(-picked_BS * told_BS, entropies_BS=(entropies_BS * told_BS).detach(), right_BS=right_BS)

    @property
    def labels_BS(self) -> Tensor:
        """The next token where it is an answer's, else -100."""
        return F.pad(self.input_ids_BS.masked_fill(self.answer_BS == 0, -100)[:, 1:], (0, 1), value=-100)

    def batch(self, roles: Mapping[str, Tensor], reference: Any = None) -> Batch:
        """The rows as one of our micro batches, with the reference model's log-probs."""
        batch = Batch(
            input_ids_BS=self.input_ids_BS,
            labels_BS=self.labels_BS,
            position_ids_BS=torch.arange(self.input_ids_BS.shape[1]).expand_as(self.input_ids_BS),
            segment_ids_BS=self.attention_BS * 2 - 1,
            images_NCHW=None,
            image_index_K=None,
            sample_ids=("a",),
            roles=roles,
        )
        if reference is None:
            return batch
        with torch.no_grad():
            log_probs_Q = -batch.sum_per_sequence(self.reading(reference).token_losses_BS)
        return replace(batch, reference_log_probs_Q=log_probs_Q)

    def pairs(self, reference: Any = None) -> Batch:
        """The same for pairs: TRL puts the chosen answers of all of them first, then the rejected ones."""
        count = len(self.input_ids_BS) // 2
        return self.batch({CHOSEN: torch.arange(count), REJECTED: torch.arange(count, 2 * count)}, reference)


def our_loss(objective: Objective, reading: Reading, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Loss and metrics as the training step divides them, with the metrics that every recipe tells."""
    output: LossOutput = objective.loss(reading, batch)
    sums = common_metrics(Reads(token_losses=True, distribution=True), reading, batch) | output.metrics
    return output.loss_sum / output.count, {name: float(s) / float(w) for name, (s, w) in sums.items() if w}


def gradient(loss: Tensor, model: Any) -> Tensor:
    """Gradients of every parameter in one vector."""
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


def relative(found: Tensor | float, expected: Tensor | float) -> float:
    """Largest difference, as a share of the largest value."""
    found, expected = (torch.as_tensor(value, dtype=torch.float64).detach() for value in (found, expected))
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
