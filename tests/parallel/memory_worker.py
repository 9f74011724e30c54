"""Worker of test_capacity_memory: runs real steps and writes what they hold in memory, per rank, as JSON.

torchrun --nproc-per-node N tests/parallel/memory_worker.py RESULTS_FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from megatron.core import parallel_state
from torch import Tensor

from nemo_mm_align.benchmarks.communication import named, traffic_of_step
from nemo_mm_align.benchmarks.estimated import build, micro_batch
from nemo_mm_align.benchmarks.traffic import counted_traffic
from nemo_mm_align.capacity.job import TrainingJob, Workload
from nemo_mm_align.model.config import (
    EngineConfig,
    LanguageConfig,
    Lever,
    Levers,
    LlavaConfig,
    LoRAConfig,
    ParallelConfig,
    VisionConfig,
)
from nemo_mm_align.model.llava import count_parameters
from nemo_mm_align.objectives.objective import TOKEN_LOSSES
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.sharded_state import bytes_to_write, state_to_save
from nemo_mm_align.training.reference import _log_probs
from nemo_mm_align.training.schedule import run_schedule
from nemo_mm_align.training.step import TrainingEngine
from tests.memory import PeakMemory, SavedTensors

CONFIG = LlavaConfig(
    LanguageConfig(4, 96, 240, num_attention_heads=4, vocab_size=515, num_query_groups=4),
    VisionConfig(3, 64, 128, num_attention_heads=4, image_size=56, patch_size=14),
    image_token_id=514,
)
GROUPED = replace(CONFIG, language=replace(CONFIG.language, num_query_groups=2, tie_word_embeddings=True))
LORA = LoRAConfig(rank=8, alpha=16, dropout=0.0)
DROPPED = replace(LORA, dropout=0.05)
LEVERS = Levers.only(*get_args(Lever))
LONG = Workload(length=300, answer_tokens=150)
"""Rows of shared prefixes so long that a CPU computes attention without a mask."""

PLAIN = TrainingJob(
    config=CONFIG,
    parallel=ParallelConfig(),
    engine=EngineConfig("fp32"),
    lora=None,
    method="sft",
    workload=Workload(length=129, answer_tokens=40),
    nodes=1,
    gpus_per_node=1,
    micro_batch_size=2,
    global_batch_size=8,
)
_TP2 = ParallelConfig(tensor_model_parallel_size=2)
_SP2 = replace(_TP2, sequence_parallel=True)
_PP2 = ParallelConfig(pipeline_model_parallel_size=2, num_layers_in_first_pipeline_stage=1)


def _levers(job: TrainingJob, recompute: str = "none") -> TrainingJob:
    """The job with all levers pulled."""
    return replace(job, engine=EngineConfig("fp32", recompute=recompute, levers=LEVERS))


def _jobs(world: int) -> dict[str, TrainingJob]:
    full = replace(PLAIN, nodes=world)
    lora = replace(full, lora=LORA)
    dpo = replace(lora, method="dpo", shared_prefix=True)
    dropped, long = replace(lora, lora=DROPPED), replace(dpo, lora=DROPPED, workload=LONG)
    if world == 1:
        return {
            "full": full,
            "full, selective": replace(full, engine=EngineConfig("fp32", recompute="selective")),
            "full, recomputed": replace(full, engine=EngineConfig("fp32", recompute="full")),
            "full, grouped heads, tied": replace(full, config=GROUPED),
            "full with vision": replace(full, train_vision=True),
            "full, one row": replace(full, micro_batch_size=1),
            "lora": lora,
            "lora, selective": replace(lora, engine=EngineConfig("fp32", recompute="selective")),
            "lora, recomputed": replace(lora, engine=EngineConfig("fp32", recompute="full")),
            "lora with dropout": dropped,
            "lora on q, v": replace(lora, lora=replace(LORA, targets=("q", "v"))),
            "dpo": dpo,
            "dpo, recomputed": replace(dpo, engine=EngineConfig("fp32", recompute="full")),
            "dpo, separate rows": replace(dpo, shared_prefix=False),
            "bf16 full": replace(full, engine=EngineConfig("bf16")),
            "bf16 lora": replace(lora, engine=EngineConfig("bf16")),
            "full, levers": _levers(full),
            "full, grouped heads, tied, selective, levers": _levers(replace(full, config=GROUPED), "selective"),
            "lora with dropout, levers": _levers(dropped),
            "lora with dropout, recomputed, levers": _levers(dropped, "full"),
            "lora on q, v, levers": _levers(replace(lora, lora=replace(DROPPED, targets=("q", "v")))),
            "dpo, long": long,
            "dpo, long, levers": _levers(long),
            "dpo, long, grouped heads, selective, levers": _levers(replace(long, config=GROUPED), "selective"),
        }
    return {
        "TP2 full": replace(full, parallel=_TP2),
        "TP2 lora": replace(lora, parallel=_TP2),
        "TP2 SP full": replace(full, parallel=_SP2),
        "TP2 SP dpo": replace(dpo, parallel=_SP2),
        "TP2 SP dpo, long, levers": _levers(replace(long, parallel=_SP2)),
        "PP2 full": replace(full, parallel=_PP2),
        "PP2 lora": replace(lora, parallel=_PP2),
        "PP2 tied": replace(full, parallel=_PP2, config=GROUPED),
        "PP2 lora, recomputed": replace(lora, parallel=_PP2, engine=EngineConfig("fp32", recompute="full")),
    }


JOBS = {world: _jobs(world) for world in (1, 2)}

_PAIR = replace(PLAIN, nodes=2)
COMMUNICATING: dict[int, dict[str, TrainingJob]] = {
    1: {},
    2: {
        "DP2 full": _PAIR,
        "DP2 dpo": replace(_PAIR, lora=LORA, method="dpo", shared_prefix=True),
        "TP2 lora, recomputed": replace(_PAIR, parallel=_TP2, lora=LORA, engine=EngineConfig("fp32", recompute="full")),
        "TP2 SP, recomputed": replace(_PAIR, parallel=_SP2, engine=EngineConfig("fp32", recompute="full")),
        "TP2 SP with vision": replace(_PAIR, parallel=_SP2, train_vision=True),
        "TP2 SP bf16 lora on q, v, o": replace(
            _PAIR, parallel=_SP2, engine=EngineConfig("bf16"), lora=replace(LORA, targets=("q", "v", "o"))
        ),
    },
}
"""More jobs, of which only what they communicate is looked at."""


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, every storage once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def optimizer_tensors(engine: TrainingEngine) -> list[Tensor]:
    """Moments and fp32 copies of bf16 weights."""
    found: list[Tensor] = []
    for part in getattr(engine.optimizer, "chained_optimizers", [engine.optimizer]):
        for state in part.optimizer.state.values():
            found += [value for value in state.values() if isinstance(value, Tensor) and value.numel() > 1]
        for group in getattr(part, "fp32_from_float16_groups", []):
            found += list(group)
    return found


def measure(job: TrainingJob) -> dict[str, Any]:
    """Bytes of one rank: parameters, gradients, optimizer, tensors saved by one micro batch, peak of a step."""
    engine = build(job)
    buffers = [buffer.grad_data for buffer in engine.ddp.buffers + engine.ddp.expert_parallel_buffers]
    there = [*engine.model.parameters(), *engine.model.buffers(), *buffers]
    with SavedTensors(there) as saved:
        run_schedule(engine.ddp, [micro_batch(job, 0)], engine.reads, engine._loss, forward_only=False)
    engine.ddp.zero_grad_buffer()
    batches = [micro_batch(job, number) for number in range(job.micro_batches)]
    with counted_traffic() as traffic:
        engine.step(batches, 0)  # from here on the optimizer's state exists
    held = optimizer_tensors(engine)
    with PeakMemory([*there, *held]) as peak:
        run_schedule(engine.ddp, batches, engine.reads, engine._loss, forward_only=False)
    engine.model.eval()
    with torch.no_grad(), PeakMemory([*there, *held]) as forward:
        run_schedule(engine.model, [micro_batch(job, 0)], TOKEN_LOSSES, _log_probs, forward_only=True)
    return {
        "forward": forward.peak,
        "parameters": count_parameters(engine.model),
        "trained": count_parameters(engine.model, trainable_only=True),
        "weights": bytes_of(engine.model.parameters()),
        "gradients": bytes_of(buffers),
        "optimizer": bytes_of(held),
        "saved": saved.bytes,
        "peak": peak.peak,
        "checkpoint": bytes_to_write(state_to_save(engine.model, engine.optimizer, job.lora is not None)),
        "shapes": saved.shapes,
        "traffic": named(traffic),
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    world = runtime.world_size()
    results = {}
    for name, job in JOBS[world].items():
        if parallel_state.model_parallel_is_initialized():
            parallel_state.destroy_model_parallel()
        runtime.initialize(job.parallel, seed=1)
        results[name] = measure(job)
    for name, job in COMMUNICATING[world].items():
        parallel_state.destroy_model_parallel()
        runtime.initialize(job.parallel, seed=1)
        results[name] = {"traffic": traffic_of_step(job)}
    (folder / f"{world}-{runtime.rank()}.json").write_text(json.dumps(results))
    runtime.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
