"""TRL's DPOTrainer and SFTTrainer as peers: a global batch in micro batches that their own collators pad.

On the CPU, scaled-dot-product attention, fused AdamW, no gradient checkpointing, nothing cut at max_length, vision tower frozen.
bf16 is TRL's own setting of that name (autocast, weights and optimizer in fp32), or weights and optimizer wholly in bf16.
What else TRL 1.16 has to save work does not reach these data: precomputed reference log-probs and packing are refused for
pictures, padding-free pairs are switched off, and Liger kernels need a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.benchmarks.peers import load_llava
from nemo_mm_align.benchmarks.trl_peer import ARGUMENTS, optimizer_arguments, processor_of
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.parallel.optim_config import OptimConfig

Inputs = dict[str, Any]
_STEPS = 10_000


@dataclass(frozen=True)
class Numbers:
    """In what numbers a peer computes: `weights` are the weights', `autocast` has products computed in bf16."""

    weights: torch.dtype = torch.float32
    autocast: bool = False


FP32 = Numbers()


class TrlTrainer:
    """One of TRL's trainers with its model: its collator, training_step, clipping and optimizer.step.

    Args:
        policy: model folder.
        reference: of pairs; None where the records are single answers.
        records: the global batch as its data set wants it.
        optim: learning rate, betas and clipping, as for the engine.
        loss: settings of `DPOConfig`; {} for single answers.
        scratch: folder for what the trainer may write.
    """

    def __init__(
        self,
        policy: Path,
        reference: Path | None,
        records: Sequence[dict[str, Any]],
        optim: OptimConfig,
        loss: Mapping[str, Any],
        scratch: Path,
        numbers: Numbers = FP32,
    ) -> None:
        from datasets import Dataset

        config, trainer = import_trl(pairs=reference is not None)
        given = {**ARGUMENTS, **optimizer_arguments(optim), **loss, "output_dir": str(scratch)}
        models = [load_llava(folder, numbers.weights) for folder in (policy, reference) if folder is not None]
        self.pairs, self._records = reference is not None, records
        self.trainer = trainer(
            *models,
            args=config(**{**given, "bf16": numbers.autocast}),
            train_dataset=Dataset.from_list(list(records)),
            processing_class=processor_of(policy),
        )
        self.trainer.create_optimizer_and_scheduler(num_training_steps=_STEPS)

    def micro_batches(self, size: int, by_length: bool = False) -> list[Inputs]:
        """The global batch in micro batches of `size` records, each padded to its longest by TRL's collator.

        Args:
            by_length: records of about one length go together, as `group_by_length` has it.
        """
        order = list(range(len(self._records)))
        if by_length:
            order.sort(key=lambda place: _words(self._records[place]))
        rows = [self.trainer.train_dataset[place] for place in order]
        return [dict(self.trainer.data_collator(rows[start : start + size])) for start in range(0, len(order), size)]

    def with_reference(self, batches: Sequence[Inputs]) -> list[Inputs]:
        """The same with log-probs of the reference, as precompute_ref_log_probs=True would have it."""
        filled = []
        for batch in batches:
            chosen, rejected = self.trainer.compute_ref_log_probs(self.trainer.ref_model, batch)
            filled.append({**batch, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected})
        return filled

    def loss(self, batches: Sequence[Inputs]) -> float:
        """Loss of the global batch without a step."""
        total, items = 0.0, self._items(batches)
        for batch in batches:
            with torch.no_grad(), self.trainer.compute_loss_context_manager():
                loss = self.trainer.compute_loss(self.trainer.model, self._asked(batch), num_items_in_batch=items)
            total += float(loss) / (len(batches) if items is None else 1)
        return total

    def step(self, batches: Sequence[Inputs]) -> float:
        """One optimizer step over all micro batches; return its loss."""
        trainer = self.trainer
        trainer.current_gradient_accumulation_steps = len(batches)
        items = self._items(batches)
        total = sum(float(trainer.training_step(trainer.model, self._asked(batch), items)) for batch in batches)
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        trainer.model.zero_grad()
        return total

    def _asked(self, batch: Inputs) -> Inputs:
        """What a pass takes: a copy, since trainers add to it; reference log-probs are used where they are."""
        if self.pairs:
            self.trainer.precompute_ref_logps = "ref_chosen_logps" in batch
        return dict(batch)

    def _items(self, batches: Sequence[Inputs]) -> torch.Tensor | None:
        """Tokens with a loss of a global batch of answers, by which its loss is divided; None for pairs."""
        return None if self.pairs else torch.stack([(batch["labels"] != -100).sum() for batch in batches]).sum()


def real_share(batches: Sequence[Inputs]) -> float:
    """Share of computed positions that are no padding."""
    masks = [batch["attention_mask"] for batch in batches]
    return float(sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks))


def _words(record: Mapping[str, Any]) -> int:
    """Words of its longest sequence."""
    answers = [record[name] for name in ("chosen", "rejected", "completion") if name in record]
    return len(record["prompt"].split()) + max(len(answer.split()) for answer in answers)


def import_trl(pairs: bool) -> tuple[Any, Any]:
    """Settings and trainer; raise `UserError` without TRL, or with one whose trainers take no pictures."""
    try:
        import trl

        major = int(trl.__version__.split(".")[0])
    except ImportError as error:
        raise UserError(
            f"parts=[lengths] measures against TRL, which cannot be imported ({error}). {_REMEDY}"
        ) from None
    if major < 1:
        raise UserError(f"parts=[lengths] measures against TRL 1.0 or later; this is {trl.__version__}. {_REMEDY}")
    return (trl.DPOConfig, trl.DPOTrainer) if pairs else (trl.SFTConfig, trl.SFTTrainer)


_REMEDY = "Install requirements-dev.txt, or leave this part out."
