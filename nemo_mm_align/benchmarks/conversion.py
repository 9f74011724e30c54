"""Part ``import``: anonymous memory while a bf16 folder is loaded, saved as a checkpoint, and exported from either."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.benchmarks.agreed import SEED
from nemo_mm_align.benchmarks.machine import Growth, anonymous_growth, load_average
from nemo_mm_align.core.configuration import read
from nemo_mm_align.model.config import EngineConfig, ParallelConfig
from nemo_mm_align.model.huggingface_export import export_huggingface
from nemo_mm_align.model.huggingface_origin import Origin
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.conversion import export_folder, import_folder
from nemo_mm_align.parallel.conversion_settings import ConvertSettings
from nemo_mm_align.parallel.source import build_from, open_source


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Load and export a folder; growth is counted from before the load on, peaks are summed over ranks."""
    tensor, _ = settings["layout"]
    parallel = ParallelConfig(tensor_model_parallel_size=tensor)
    runtime.initialize(parallel, SEED)
    folder, out = Path(settings["folder"]), Path(settings["out"])
    result: dict[str, Any] = {}
    with anonymous_growth() as loading:
        start = time.perf_counter()
        source = open_source(folder)
        model = build_from(source, parallel, EngineConfig("bf16", seed=SEED))
        torch.distributed.barrier()
        result["import_seconds"] = time.perf_counter() - start
    with anonymous_growth() as exporting:
        start = time.perf_counter()
        export_huggingface(model, out, Origin.of_folder(folder))
        result["export_seconds"] = time.perf_counter() - start
    exporting.before = loading.before
    result |= {"import_bytes": _summed(loading), "export_bytes": _summed(exporting)}
    return {**result, "processes": runtime.world_size(), "load_after": load_average()}


def measure_checkpoint(settings: dict[str, Any]) -> dict[str, Any]:
    """Do what ``scripts/convert.py direction=import`` does: load a folder and save it as a checkpoint."""
    return _measure_command(import_folder, "import", "checkpoint", settings)


def measure_checkpoint_export(settings: dict[str, Any]) -> dict[str, Any]:
    """Do what ``scripts/convert.py direction=export`` does with a checkpoint: load it and write a folder."""
    return _measure_command(export_folder, "export", "checkpoint_export", settings)


def _measure_command(
    command: Callable[[ConvertSettings], Path], direction: str, name: str, settings: dict[str, Any]
) -> dict[str, Any]:
    tensor, _ = settings["layout"]
    runtime.initialize(ParallelConfig(tensor_model_parallel_size=tensor), SEED)
    values = {
        "direction": direction,
        "source": settings["folder"],
        "out": settings["out"],
        "template": settings["template"],
        "precision": "bf16",
        "tensor_model_parallel_size": tensor,
    }
    with anonymous_growth() as growth:
        start = time.perf_counter()
        command(read(ConvertSettings, values))
        seconds = time.perf_counter() - start
    return {f"{name}_bytes": _summed(growth), f"{name}_seconds": seconds}


def _summed(growth: Growth) -> int:
    total = torch.tensor(growth.bytes)
    torch.distributed.all_reduce(total)
    return int(total)
