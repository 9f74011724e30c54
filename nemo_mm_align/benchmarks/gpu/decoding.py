"""Step ``decode``: greedy answers to prompts of one image and a question; nothing ends an answer early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.benchmarks.gpu import clock, shapes
from nemo_mm_align.benchmarks.gpu.bench import SEED
from nemo_mm_align.benchmarks.gpu.levers import cudnn_attention
from nemo_mm_align.benchmarks.gpu.records import Context
from nemo_mm_align.benchmarks.pairs import PairSizes, draw_pairs, prompt_ids, random_pixels
from nemo_mm_align.inference.decode import EncodedPrompt, ImageBatch, generate_batch
from nemo_mm_align.inference.sampling import SamplingSettings
from nemo_mm_align.model.config import EngineConfig, ParallelConfig
from nemo_mm_align.model.llava import Llava, build_llava
from nemo_mm_align.parallel import runtime

_NO_STOP = (-1,)


def measure(context: Context) -> None:
    """1, 16 and 64 rows, prompts of equal and of different lengths, with the fused and the local layers."""
    runtime.initialize(ParallelConfig(), SEED)
    new = 6 if context.toy else 33
    model = _build(context, "auto")
    if model is not None:
        implementation = model.transformer_impl
        _cases(context, model, new)
        del model
        clock.free()
        if implementation != "local" and (model := _build(context, "local")) is not None:
            for rows in (1, 16):
                _case(context, model, rows, new)


def _build(context: Context, implementation: str) -> Llava | None:
    try:
        engine = EngineConfig("bf16", implementation, seed=SEED)
        return build_llava(shapes.model_config(context.size), engine=engine)
    except Exception as error:
        context.recorder.failed(f"{context.size} bf16 {implementation}", error)
        return None


def _cases(context: Context, model: Llava, new: int) -> None:
    for rows in (1, 16, 64):
        _case(context, model, rows, new)
    _case(context, model, 16, new, ragged=True)
    _case(context, model, 16, 8 if clock.cuda() else new, cudnn=True)


def _case(context: Context, model: Llava, rows: int, new: int, ragged: bool = False, cudnn: bool = False) -> None:
    lengths = "prompts of four lengths" if ragged else "prompts of one length"
    name = f"{context.size} bf16 {model.transformer_impl}, {rows} rows, {lengths}{' + cudnn' if cudnn else ''}"
    context.recorder.case(name, lambda: decoded(context.size, model, rows, new, ragged, cudnn))


def decoded(size: str, model: Llava, rows: int, new: int, ragged: bool, cudnn: bool) -> dict[str, Any]:
    """Seconds of the prompts' pass and of each further token; `new` tokens are decoded."""
    config, given = shapes.model_config(size), shapes.words(size)
    drawn = draw_pairs(config, PairSizes(rows, given.prompt, (4, 4)), SEED)
    ids = [prompt_ids(pair, config)[: (-1 - row % 4) if ragged else None] for row, pair in enumerate(drawn)]
    prompts = [EncodedPrompt(str(row), one, (Path(str(row)),)) for row, one in enumerate(ids)]
    images = ImageBatch(random_pixels(drawn), torch.arange(rows))

    def decode(tokens: int) -> None:
        generate_batch(model, prompts, images, SamplingSettings(temperature=0.0, max_new_tokens=tokens), _NO_STOP)

    clock.free()
    with cudnn_attention(cudnn):
        decode(2)
        prefill, whole = (clock.seconds(lambda: decode(tokens)) for tokens in (1, new))  # noqa: B023
    step = (whole - prefill) / (new - 1)
    return {
        "prefill_s": round(prefill, 4),
        "step_ms": round(step * 1e3, 3),
        "tokens_per_s": round(rows / step, 1),
        "new_tokens": new,
        "prompt_tokens": len(ids[0]),
        "peak_gib": clock.peak_gib(),
    }
