"""Step ``decode``: greedy answers to prompts of one image and a question; nothing ends an answer early."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.benchmarks.gpu import clock, shapes
from nemo_mm_align.benchmarks.gpu.bench import SEED
from nemo_mm_align.benchmarks.gpu.levers import cudnn_attention
from nemo_mm_align.benchmarks.gpu.records import Context, Skipped
from nemo_mm_align.benchmarks.pairs import PairSizes, draw_pairs, prompt_ids, random_pixels
from nemo_mm_align.inference.decode import generate_batch
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.requests import EncodedPrompt
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.model.config import EngineConfig, ParallelConfig
from nemo_mm_align.model.llava import Llava, build_llava
from nemo_mm_align.parallel import runtime

_NO_STOP = (-1,)
_COUNTS, _FEW_COUNTS = (17, 81), (3, 7)
"""New tokens of the shorter and of the longer run, whose difference is what a step costs."""


@dataclass(frozen=True)
class Case:
    """One way to decode.

    Args:
        rows: prompts of a batch.
        ragged: prompts of four lengths instead of one, which takes a mask.
        cudnn: cuDNN's attention, which plans anew for every token.
        eager: without CUDA graphs, where the project has them.
    """

    rows: int
    ragged: bool = False
    cudnn: bool = False
    eager: bool = False

    @property
    def name(self) -> str:
        """In the results."""
        rows = f"{self.rows} row{'s' if self.rows > 1 else ''}"
        pulled = "".join(f" + {name}" for name in ("cudnn", "eager") if getattr(self, name))
        return f"{rows}, prompts of {'four lengths' if self.ragged else 'one length'}{pulled}"


def measure(context: Context) -> None:
    """1, 16 and 64 rows, prompts of equal and of different lengths, with the fused and the local layers."""
    runtime.initialize(ParallelConfig(), SEED)
    cases = [Case(1), Case(16), Case(64), Case(16, ragged=True), Case(16, eager=True), Case(16, cudnn=True)]
    built = _measured(context, "auto", cases)
    clock.free()
    if built != "local":
        _measured(context, "local", [Case(1), Case(16)])


def _measured(context: Context, implementation: str, cases: Sequence[Case]) -> str | None:
    """Measure cases of one model; return the implementation that it was built with."""
    try:
        engine = EngineConfig("bf16", implementation, seed=SEED)
        model = build_llava(shapes.model_config(context.size), engine=engine)
    except Exception as error:
        context.recorder.failed(f"{context.size} bf16 {implementation}", error)
        return None
    for case in cases:
        name = f"{context.size} bf16 {model.transformer_impl}, {case.name}"
        context.recorder.case(name, partial(decoded, context.size, model, case))
    found: str = model.transformer_impl
    return found


def decoded(size: str, model: Llava, case: Case) -> dict[str, Any]:
    """Seconds of the prompts' pass, of what comes once before the steps run evenly, and of a step."""
    options = _options(case)
    prompts, images = _prompts(size, case)

    def decode(tokens: int) -> None:
        settings = SamplingSettings(temperature=0.0, max_new_tokens=tokens)
        generate_batch(model, prompts, images, settings, _NO_STOP, **options)

    few, many = _FEW_COUNTS if case.cudnn or size == "toy" else _COUNTS
    clock.free()
    with cudnn_attention(case.cudnn):
        decode(few)
        prefill, short, whole = (clock.seconds(lambda: decode(tokens)) for tokens in (1, few, many))  # noqa: B023
    step = (
        (whole - short) / (many - few) if whole > short else whole / many
    )  # the latter on a machine that was disturbed
    return {
        "prefill_s": round(prefill, 4),
        "once_s": round(max(short - prefill - (few - 1) * step, 0.0), 4),
        "step_ms": round(step * 1e3, 3),
        "tokens_per_s": round(case.rows / step, 1),
        "tokens_per_s_of_all": round(case.rows * many / whole, 1),
        "new_tokens": many,
        "prompt_tokens": len(prompts[0].ids),
        "peak_gib": clock.peak_gib(),
    }


def _options(case: Case) -> dict[str, Any]:
    if not case.eager:
        return {}
    if "graphs" not in inspect.signature(generate_batch).parameters:
        raise Skipped("decoding has no CUDA graphs in this version")
    return {"graphs": False}


def _prompts(size: str, case: Case) -> tuple[list[EncodedPrompt], ImageBatch]:
    config, given = shapes.model_config(size), shapes.words(size)
    drawn = draw_pairs(config, PairSizes(case.rows, given.prompt, (4, 4)), SEED)
    ids = [prompt_ids(pair, config)[: (-1 - row % 4) if case.ragged else None] for row, pair in enumerate(drawn)]
    prompts = [EncodedPrompt(str(row), one, (Path(str(row)),)) for row, one in enumerate(ids)]
    return prompts, ImageBatch(random_pixels(drawn), torch.arange(case.rows))
