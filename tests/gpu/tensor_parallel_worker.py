"""Worker of test_llava_cuda: opens a checkpoint on two GPUs, writes its losses and those of some training steps as JSON.

torchrun --nproc-per-node 2 tests/gpu/tensor_parallel_worker.py CHECKPOINT RESULTS PRECISION
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nemo_mm_align.model.config import EngineConfig, ParallelConfig
from nemo_mm_align.model.llava import build_llava
from nemo_mm_align.parallel import checkpoint, runtime
from tests.gpu.test_llava_cuda import CONFIG, batch, losses, sft


def main(folder: str, results: str, precision: str) -> None:
    parallel = ParallelConfig(2, 1, sequence_parallel=True)
    runtime.initialize(parallel, 0)
    model = build_llava(CONFIG, parallel, EngineConfig(precision))
    checkpoint.load(folder, model)
    token_losses, engine = losses(model, batch()), sft(model)
    steps = [engine.step([batch()], step).metrics["loss"] for step in range(3)]
    if runtime.rank() == 0:
        Path(results).write_text(json.dumps({"token_losses": token_losses.tolist(), "steps": steps}))
    runtime.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
