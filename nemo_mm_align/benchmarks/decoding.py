"""Part ``decoding``: greedy answers of this engine and of transformers' generate, the same tokens asserted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.benchmarks import peers
from nemo_mm_align.benchmarks.agreed import SEED
from nemo_mm_align.benchmarks.engine import load_engine
from nemo_mm_align.benchmarks.machine import load_average
from nemo_mm_align.benchmarks.pairs import PairSizes, draw_pairs, prompt_ids, random_pixels
from nemo_mm_align.benchmarks.timing import alternate, speedup
from nemo_mm_align.inference.decode import generate_batch
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.requests import EncodedPrompt
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.model.config import LlavaConfig, ParallelConfig
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.parallel import runtime

_NO_STOP = (-1,)


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Decode batches of prompts whose lengths differ, without a stop token."""
    runtime.initialize(ParallelConfig(), SEED)
    config, folder = LlavaConfig.from_dict(settings["sizes"]), Path(settings["folder"])
    ours, peer = load_engine(folder / "policy"), peers.load_llava(folder / "policy").eval()
    batches = {str(rows): _compare(ours, peer, config, settings, rows) for rows in settings["batches"]}
    return {"batches": batches, "threads": torch.get_num_threads(), "load_after": load_average()}


def _compare(ours: Llava, peer: Any, config: LlavaConfig, settings: dict[str, Any], rows: int) -> dict[str, Any]:
    new_tokens = settings["new_tokens"]
    pairs = draw_pairs(config, replace(PairSizes(**settings["pairs"]), pairs=rows), SEED)
    pixels_NCHW = random_pixels(pairs)
    prompts = [prompt_ids(pair, config)[: -1 - row % 4] for row, pair in enumerate(pairs)]
    found: dict[str, list[list[int]]] = {}

    def decode_ours() -> None:
        found["ours"] = _greedy(ours, prompts, pixels_NCHW, new_tokens)

    def decode_peer() -> None:
        found["transformers"] = peers.greedy(peer, prompts, pixels_NCHW, new_tokens)

    timings = alternate({"transformers": decode_peer, "ours": decode_ours}, settings["rounds"])
    if found["ours"] != found["transformers"]:
        raise RuntimeError(f"the answers differ: {found}")
    seconds = {name: timing.median for name, timing in timings.items()}
    return {
        "seconds": seconds,
        "tokens_per_second": {name: rows * new_tokens / value for name, value in seconds.items()},
        "speedup": speedup(timings["transformers"], timings["ours"]),
        "prompt_tokens": sorted({len(prompt) for prompt in prompts}),
    }


def _greedy(model: Llava, prompts: Sequence[list[int]], pixels_NCHW: torch.Tensor, new_tokens: int) -> list[list[int]]:
    encoded = [EncodedPrompt(str(row), ids, (Path(str(row)),)) for row, ids in enumerate(prompts)]
    images = ImageBatch(pixels_NCHW, torch.arange(len(prompts)))
    sampling = SamplingSettings(temperature=0.0, max_new_tokens=new_tokens)
    answers = generate_batch(model, encoded, images, sampling, _NO_STOP)
    return [answer.ids for (answer,) in answers]
