"""Step ``peer``: transformers' LLaVA with PEFT's adapters in a plain loop, the same DPO loss on the same rows.

As strong as its own options allow: bf16 autocast, scaled-dot-product attention, logits of the answers alone, fused AdamW, no
gradient checkpointing, reference log-probs cached or by disabled adapters.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_mm_align.benchmarks.gpu import clock, shapes
from nemo_mm_align.benchmarks.gpu.bench import BETA, MICRO_BATCHES
from nemo_mm_align.benchmarks.gpu.records import Context, Skipped
from nemo_mm_align.benchmarks.pairs import PairSizes, draw_pairs, random_pixels, samples_of
from nemo_mm_align.model.config import LlavaConfig

_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def measure(context: Context) -> None:
    """Micro batches as of our own, with a cached reference and with one computed in every step."""
    label = f"{context.size} transformers + PEFT"
    try:
        loop = PeerLoop(context.size)
    except Exception as error:
        context.recorder.failed(label, error)
    else:
        _cases(context, loop, label)
    context.recorder.case(f"{context.size} TRL with Liger kernels", _trl)


def _cases(context: Context, loop: PeerLoop, label: str) -> None:
    for pairs in (2, 4, 1):
        for cached in (True, False):
            way = "cached reference" if cached else "reference in every step"
            name = f"{label}, {pairs} pair{'s' if pairs > 1 else ''}, {way}"
            context.recorder.case(name, lambda: loop.timed(pairs, cached))  # noqa: B023


def _trl() -> dict[str, Any]:
    missing = [name for name in ("trl", "liger_kernel") if importlib.util.find_spec(name) is None]
    if missing:
        raise Skipped(f"not installed: {', '.join(missing)}")
    raise Skipped("TRL's trainer is measured on the CPU alone, by parts=[training]")


class PeerLoop:
    """The model and its optimizer.

    Raises:
        Skipped: transformers or peft is not installed.
    """

    def __init__(self, size: str) -> None:
        missing = [name for name in ("transformers", "peft") if importlib.util.find_spec(name) is None]
        if missing:
            raise Skipped(f"not installed: {', '.join(missing)}")
        self.size, self.config = size, shapes.model_config(size)
        self.model = _adapted(_llava(self.config), size)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, weight_decay=0.0, fused=True)

    def timed(self, pairs: int, cached: bool) -> dict[str, Any]:
        """Values for a record."""
        clock.free()
        ids_BS, pixels_NCHW = self._batch(pairs)
        kept = self._reference(ids_BS, pixels_NCHW)

        def step() -> None:
            for _ in range(MICRO_BATCHES):
                reference_Q = kept if cached else self._reference(ids_BS, pixels_NCHW)
                margins_P2 = (self._log_probs(ids_BS, pixels_NCHW) - reference_Q).view(-1, 2)
                loss = -F.logsigmoid(BETA * (margins_P2[:, 0] - margins_P2[:, 1])).mean() / MICRO_BATCHES
                loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()

        try:
            taken = clock.median_seconds(step, repeats=3, warmup=2)
        finally:
            self.optimizer.zero_grad()
        tokens = (ids_BS.numel() - len(ids_BS)) * MICRO_BATCHES
        return {
            "step_s": round(taken, 4),
            "samples_per_s": round(pairs * MICRO_BATCHES / taken, 3),
            "tokens_per_s": round(tokens / taken),
            "pairs": pairs,
            "cached": cached,
            "peak_gib": clock.peak_gib(),
        }

    def _batch(self, pairs: int) -> tuple[Tensor, Tensor]:
        """Rows of both answers and their images, one a row."""
        given = shapes.words(self.size)
        drawn = draw_pairs(self.config, PairSizes(pairs, given.prompt, (given.answer, given.answer)), 0)
        rows = [one.ids for sample in samples_of(drawn, self.config) for one in sample.sequences]
        pixels_NCHW = random_pixels(drawn).repeat_interleave(2, 0)
        return torch.tensor(rows, device=clock.device()), pixels_NCHW.to(clock.device(), torch.bfloat16)

    def _log_probs(self, ids_BS: Tensor, pixels_NCHW: Tensor) -> Tensor:
        """Summed log-probs of the answers, [Q]."""
        kept = shapes.words(self.size).answer + 2  # positions that predict answer and stop token, and the last one
        with torch.autocast(clock.device().type, torch.bfloat16):
            logits_BSV = self.model(
                input_ids=ids_BS,
                pixel_values=pixels_NCHW,
                attention_mask=torch.ones_like(ids_BS),
                logits_to_keep=kept,
                use_cache=False,
            ).logits
        wanted = ids_BS[:, -kept + 1 :].flatten()
        losses = F.cross_entropy(logits_BSV[:, :-1].flatten(0, 1).float(), wanted, reduction="none")
        return -losses.view(len(ids_BS), -1).sum(1)

    def _reference(self, ids_BS: Tensor, pixels_NCHW: Tensor) -> Tensor:
        with torch.no_grad(), self.model.disable_adapter():
            return self._log_probs(ids_BS, pixels_NCHW)


def _llava(config: LlavaConfig) -> Any:
    """transformers' model of the same sizes, bf16, random, made on the device."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaForConditionalGeneration
    from transformers import LlavaConfig as TransformersConfig

    language, vision = config.language, config.vision
    whole = TransformersConfig(
        text_config=LlamaConfig(
            vocab_size=language.vocab_size,
            hidden_size=language.hidden_size,
            intermediate_size=language.ffn_hidden_size,
            num_hidden_layers=language.num_layers,
            num_attention_heads=language.num_attention_heads,
            num_key_value_heads=language.groups,
            max_position_embeddings=language.max_position_embeddings,
            rms_norm_eps=language.rms_norm_eps,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=vision.hidden_size,
            intermediate_size=vision.ffn_hidden_size,
            num_hidden_layers=vision.num_layers,
            num_attention_heads=vision.num_attention_heads,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            projection_dim=64,
        ),
        image_token_index=config.image_token_id,
        image_token_id=config.image_token_id,
        image_seq_length=config.tokens_per_image,
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        with clock.device():
            return LlavaForConditionalGeneration._from_config(whole, attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(torch.float32)


def _adapted(model: Any, size: str) -> Any:
    """Adapters on the language model's linear layers; they and the projector are trained."""
    from peft import LoraConfig, get_peft_model

    ours = shapes.lora_config(size)
    model.requires_grad_(False)
    settings = LoraConfig(r=ours.rank, lora_alpha=int(ours.alpha), lora_dropout=ours.dropout, target_modules=_TARGETS)
    adapted = get_peft_model(model, settings).to(clock.device())
    for name, parameter in adapted.named_parameters():
        if "multi_modal_projector" in name:
            parameter.requires_grad_(True)
    return adapted.train()
