"""TRL's DPOTrainer as the peer of pairs: the release that is installed, or that PYTHONPATH puts first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.benchmarks.pairs import Pair
from nemo_mm_align.benchmarks.peers import load_llava
from nemo_mm_align.benchmarks.random_models import END_WORD
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.parallel.optim_config import OptimConfig


class TrlPairs:
    """TRL's DPOTrainer on one prepared batch: its collator, training_step, clipping and optimizer.step.

    fp32, sdpa, fused AdamW, no gradient checkpointing, no cut at max_length, a second model as reference, vision tower frozen.
    Releases before 1.0 compute logits of the answers alone where `use_logits_to_keep` is set. Later ones have no such option:
    on a CPU they compute log-probs of all positions piece by piece, on a GPU those of the answers alone.

    Args:
        policy, reference: model folders.
        pairs: the batch.
        optim: learning rate, betas and clipping, as for the engine.
        loss: ``beta``, ``loss_type`` and other settings of `DPOConfig`.
        scratch: folder for what the trainer may write.
    """

    def __init__(
        self,
        policy: Path,
        reference: Path,
        pairs: Sequence[Pair],
        optim: OptimConfig,
        loss: Mapping[str, Any],
        scratch: Path,
    ) -> None:
        config, trainer = _trl()
        known = {field.name for field in fields(config)}
        self.keeps_answers = "use_logits_to_keep" in known
        """Whether this release has the option."""
        given = {**ARGUMENTS, **optimizer_arguments(optim), **loss, "output_dir": str(scratch)}
        given["per_device_train_batch_size"] = len(pairs)
        if "max_prompt_length" in known:
            given["max_prompt_length"] = None
        self.trainer = trainer(
            load_llava(policy),
            load_llava(reference),
            config(**given),
            train_dataset=_data_set(pairs, ends=not self.keeps_answers),
            processing_class=processor_of(policy),
        )
        self.trainer.create_optimizer_and_scheduler(num_training_steps=10_000)
        self.trainer.current_gradient_accumulation_steps = 1
        rows = [self.trainer.train_dataset[index] for index in range(len(pairs))]
        self.batch: dict[str, torch.Tensor] = self.trainer.data_collator(rows)
        self._reference: dict[str, torch.Tensor] = {}

    def fill_reference(self) -> None:
        """Compute the reference's log-probs, as precompute_ref_log_probs=True does, which TRL refuses for images."""
        trainer = self.trainer
        models = () if self.keeps_answers else (trainer.ref_model,)
        chosen, rejected = trainer.compute_ref_log_probs(*models, self.batch)
        self._reference = {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}

    def _inputs(self, answers_only: bool, cached: bool) -> dict[str, torch.Tensor]:
        self.trainer.use_logits_to_keep = answers_only
        self.trainer.precompute_ref_logps = cached  # asked from 1.0 on; before, the keys are enough
        return {**self.batch, **(self._reference if cached else {})}

    def loss(self, answers_only: bool = False, cached: bool = False) -> float:
        """Loss without a step; see `step`."""
        inputs = self._inputs(answers_only, cached)
        with torch.no_grad():
            return float(self.trainer.compute_loss(self.trainer.model, inputs))

    def step(self, answers_only: bool = False, cached: bool = False) -> float:
        """One optimizer step; return its loss.

        Args:
            answers_only: TRL's use_logits_to_keep, where the release has it.
            cached: reference log-probs of `fill_reference`.
        """
        trainer = self.trainer
        loss = float(trainer.training_step(trainer.model, self._inputs(answers_only, cached)))
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        trainer.model.zero_grad()
        return loss


ARGUMENTS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "lr_scheduler_type": "constant",
    "optim": "adamw_torch_fused",
    "max_length": None,
    "remove_unused_columns": False,  # the default drops the images
    "report_to": [],
    "disable_tqdm": True,
}
"""Of any of its trainers: on the CPU, nothing cut, dropped or reported."""


def optimizer_arguments(optim: OptimConfig) -> dict[str, Any]:
    """AdamW and clipping as for the engine."""
    return {
        "learning_rate": optim.lr,
        "adam_beta1": optim.betas[0],
        "adam_beta2": optim.betas[1],
        "adam_epsilon": optim.eps,
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.clip_grad,
    }


def _trl() -> tuple[Any, Any]:
    try:
        from trl import DPOConfig, DPOTrainer
    except ImportError as error:
        raise UserError(
            f"parts=[training] measures against TRL, which cannot be imported ({error}). Install "
            "requirements-dev.txt, or leave this part out."
        ) from None
    return DPOConfig, DPOTrainer


def _data_set(pairs: Iterable[Pair], ends: bool) -> Any:
    """Records; with `ends` answers carry their stop token, which collators from 1.0 on do not add to pairs with images."""
    from datasets import Dataset

    records = [pair.record() for pair in pairs]
    if ends:
        records = [
            record | {name: f"{record[name]} {END_WORD}" for name in ("chosen", "rejected")} for record in records
        ]
    return Dataset.from_list(records)


def processor_of(folder: Path) -> Any:
    """The processor of a random model's folder, as LLaVA-1.5's models have it."""
    from transformers import AutoTokenizer, CLIPImageProcessor, LlavaProcessor

    image_processor = CLIPImageProcessor.from_pretrained(folder)
    values = LlavaProcessor.from_pretrained(folder).to_dict()
    return LlavaProcessor(
        image_processor,
        AutoTokenizer.from_pretrained(folder),
        patch_size=values["patch_size"],
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    )
