"""What workers share that measure the same in one layout after the other, in the same processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel import runtime


def in_each_layout(
    layouts: Mapping[str, ParallelConfig], measure: Callable[[Path, ParallelConfig], Any], folder: Path, results: Path
) -> None:
    """Write what `measure` returns in each layout as JSON, by the layout's name; the first rank writes."""
    torch.set_num_threads(1)
    found = {}
    for name, parallel in layouts.items():
        runtime.initialize(parallel, seed=1)
        found[name] = measure(folder, parallel)
        torch.distributed.barrier()
        runtime.parallel_state.destroy_model_parallel()
    if runtime.rank() == 0:
        results.write_text(json.dumps(found))
    runtime.shutdown()
