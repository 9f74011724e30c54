"""Parts ``layouts`` and ``reference``: one DPO step under every layout, and what caching the reference saves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.benchmarks.agreed import SEED
from nemo_mm_align.benchmarks.engine import EngineTraining
from nemo_mm_align.benchmarks.machine import load_average, peak_resident_bytes
from nemo_mm_align.benchmarks.pairs import PairSizes, batch_of, draw_pairs, positions, random_pixels, samples_of
from nemo_mm_align.benchmarks.recipes import PREFERENCE
from nemo_mm_align.benchmarks.timing import alternate, speedup
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.model.config import LlavaConfig, ParallelConfig
from nemo_mm_align.parallel import runtime

MICRO_BATCHES = 4


def _micro_batches(settings: dict[str, Any], config: LlavaConfig) -> list[Batch]:
    """Four micro batches of one row length, shared-prefix rows."""
    each = settings["layout_pairs"]
    pairs = draw_pairs(config, replace(PairSizes(**settings["pairs"]), pairs=MICRO_BATCHES * each), SEED)
    samples, pixels_NCHW = samples_of(pairs, config), random_pixels(pairs)
    whole = batch_of(samples, config, pixels_NCHW, shared_prefix=True)
    length = whole.input_ids_BS.shape[1]
    groups = [samples[start : start + each] for start in range(0, len(samples), each)]
    return [batch_of(group, config, pixels_NCHW, shared_prefix=True, length=length) for group in groups]


def _median_step(training: EngineTraining, batches: Sequence[Batch], steps: int) -> float:
    seconds = []
    for number in range(steps + 1):
        torch.distributed.barrier()
        start = time.perf_counter()
        training.step(batches)
        if number > 0:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure_layout(settings: dict[str, Any]) -> dict[str, Any]:
    """Time DPO steps (shared prefix, cached reference) of this layout; peak memory is summed over ranks."""
    tensor, pipeline = settings["layout"]
    config, folder = LlavaConfig.from_dict(settings["sizes"]), Path(settings["folder"])
    first = (
        config.language.num_layers // 2 if pipeline == 2 else None
    )  # of an odd number the stage with the tower has less
    parallel = ParallelConfig(tensor, pipeline, num_layers_in_first_pipeline_stage=first)
    runtime.initialize(parallel, SEED)
    batches = _micro_batches(settings, config)
    references = torch.zeros(2 * settings["layout_pairs"])
    batches = [replace(batch, reference_log_probs_Q=references) for batch in batches]
    tokens = sum(map(positions, batches))
    mine = batches[runtime.data_parallel_rank() :: runtime.data_parallel_size()]
    training = EngineTraining(folder / "policy", PREFERENCE, parallel=parallel)
    seconds = _median_step(training, mine, settings["steps"])
    memory = torch.tensor(peak_resident_bytes())
    torch.distributed.all_reduce(memory)
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_bytes": int(memory),
        "processes": runtime.world_size(),
        "threads": torch.get_num_threads(),
        "load_after": load_average(),
    }


def measure_reference(settings: dict[str, Any]) -> dict[str, Any]:
    """Take DPO steps with the reference cached or recomputed, in a process that holds only what that needs."""
    runtime.initialize(ParallelConfig(), SEED)
    config, folder = LlavaConfig.from_dict(settings["sizes"]), Path(settings["folder"])
    recompute = settings["recompute"]
    batches = _micro_batches(settings, config)
    training = EngineTraining(folder / "policy", PREFERENCE, folder / "policy" if recompute else None)
    if not recompute:
        training.reference = training.engine.model.eval()  # before training the policy is the reference
        batches = [training.with_reference(batch) for batch in batches]
        training.reference = None
        training.engine.model.train()
    training.step(batches, recompute)
    return {"peak_bytes": peak_resident_bytes()}


def measure_reference_time(settings: dict[str, Any]) -> dict[str, Any]:
    """Time DPO steps with the reference cached and recomputed, in turn."""
    runtime.initialize(ParallelConfig(), SEED)
    config, folder = LlavaConfig.from_dict(settings["sizes"]), Path(settings["folder"])
    batches = _micro_batches(settings, config)
    training = EngineTraining(folder / "policy", PREFERENCE, folder / "reference")
    cached = [training.with_reference(batch) for batch in batches]
    timings = alternate(
        {
            "recomputed": lambda: training.step(batches, recompute=True),
            "cached": lambda: training.step(cached),
            "filled": lambda: [training.with_reference(batch) for batch in batches],
        },
        settings["rounds"],
    )
    return {
        "seconds": {name: timing.median for name, timing in timings.items()},
        "speedup": speedup(timings["recomputed"], timings["cached"]),
        "load_after": load_average(),
    }
