"""The peers: TRL's DPOTrainer and transformers' LLaVA, set up as strongly as their own options allow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.benchmarks.pairs import Pair
from nemo_mm_align.benchmarks.random_models import IMAGE_ID, PAD_ID
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.parallel.optim_config import OptimConfig

SETTINGS = {
    "TRL": (
        "DPOTrainer (its collator, training_step, gradient clipping, optimizer.step), fp32, attn_implementation=sdpa, "
        "optim=adamw_torch_fused, gradient_checkpointing=False, max_length=None, ref_model=a second model, "
        "vision tower frozen"
    ),
    "transformers": (
        "LlavaForConditionalGeneration in train(), fp32, attn_implementation=sdpa, torch.optim.AdamW(fused=True), "
        "clip_grad_norm_, vision tower frozen"
    ),
    "generate": "transformers' generate, fp32, attn_implementation=sdpa, do_sample=False, its default (dynamic) cache",
}


def load_llava(folder: Path) -> Any:
    """Open a folder with transformers, fp32, the vision tower frozen."""
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)
    model.model.vision_tower.requires_grad_(False)
    return model


class TrlDpo:
    """TRL's DPOTrainer on one prepared batch.

    Args:
        policy, reference: model folders.
        pairs: the batch.
        optim: learning rate, betas and clipping, as for the engine.
        scratch: folder for what the trainer may write.
    """

    def __init__(
        self, policy: Path, reference: Path, pairs: Sequence[Pair], optim: OptimConfig, beta: float, scratch: Path
    ) -> None:
        config, trainer = _trl()
        arguments = config(
            output_dir=str(scratch),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=len(pairs),
            learning_rate=optim.lr,
            lr_scheduler_type="constant",
            adam_beta1=optim.betas[0],
            adam_beta2=optim.betas[1],
            adam_epsilon=optim.eps,
            weight_decay=optim.weight_decay,
            max_grad_norm=optim.clip_grad,
            optim="adamw_torch_fused",
            beta=beta,
            max_length=None,
            max_prompt_length=None,
            remove_unused_columns=False,  # the default drops the images
            report_to=[],
            disable_tqdm=True,
        )
        self.trainer = trainer(
            load_llava(policy),
            load_llava(reference),
            arguments,
            train_dataset=_data_set(pairs),
            processing_class=_processor(policy),
        )
        self.trainer.create_optimizer_and_scheduler(num_training_steps=10_000)
        self.trainer.current_gradient_accumulation_steps = 1
        rows = [self.trainer.train_dataset[index] for index in range(len(pairs))]
        self.batch: dict[str, torch.Tensor] = self.trainer.data_collator(rows)

    def _inputs(self, cached: bool) -> dict[str, torch.Tensor]:
        return dict(self.batch) if cached else {k: v for k, v in self.batch.items() if not k.startswith("ref_")}

    def fill_reference(self) -> None:
        """Put the reference's log-probs into the batch, as precompute_ref_log_probs=True does."""
        chosen, rejected = self.trainer.compute_ref_log_probs(self.batch)
        self.batch |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}

    def loss(self, answers_only: bool, cached: bool) -> float:
        """DPO loss without a step."""
        self.trainer.use_logits_to_keep = answers_only
        with torch.no_grad():
            return float(self.trainer.compute_loss(self.trainer.model, self._inputs(cached)))

    def step(self, answers_only: bool, cached: bool) -> float:
        """One optimizer step; return its loss.

        Args:
            answers_only: TRL's use_logits_to_keep, logits of the answers alone.
            cached: reference log-probs from the batch, as with precompute_ref_log_probs.
        """
        trainer = self.trainer
        trainer.use_logits_to_keep = answers_only
        loss = float(trainer.training_step(trainer.model, self._inputs(cached)))
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        trainer.model.zero_grad()
        return loss


def _trl() -> tuple[Any, Any]:
    try:
        from trl import DPOConfig, DPOTrainer
    except ImportError as error:
        raise UserError(
            f"parts=[training] measures against TRL, which cannot be imported ({error}). Install "
            "requirements-dev.txt, or leave this part out."
        ) from None
    return DPOConfig, DPOTrainer


def _data_set(pairs: Iterable[Pair]) -> Any:
    from datasets import Dataset

    return Dataset.from_list([pair.record() for pair in pairs])


def _processor(folder: Path) -> Any:
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


class TransformersSft:
    """transformers' LLaVA with torch's AdamW on one prepared batch of single answers."""

    def __init__(self, folder: Path, samples: Sequence[Sample], pixels_NCHW: torch.Tensor, optim: OptimConfig) -> None:
        self.model = load_llava(folder).train()
        self.batch = {**padded_rows(samples), "pixel_values": pixels_NCHW}
        self.clip = optim.clip_grad
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            fused=True,
        )

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
    """Decode `new_tokens` tokens per prompt with transformers' generate.

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
