"""Part ``communication``: what ranks communicate in a step of each layout, counted, beside what the formula says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from megatron.core import parallel_state

from nemo_mm_align.benchmarks.estimated import build, micro_batch
from nemo_mm_align.benchmarks.recipes import PREFERENCE
from nemo_mm_align.benchmarks.traffic import counted_traffic
from nemo_mm_align.capacity.communication import Traffic, step_traffic, wire_bytes
from nemo_mm_align.capacity.job import TrainingJob, Workload
from nemo_mm_align.model.config import EngineConfig, LlavaConfig, LoRAConfig, ParallelConfig
from nemo_mm_align.parallel import runtime

SEED = 1234


def named(traffic: Traffic) -> dict[str, int]:
    """Return the same as JSON can hold it."""
    return {f"{group} {kind}": size for (group, kind), size in sorted(traffic.items())}


def traffic_of_step(job: TrainingJob) -> dict[str, int]:
    """Return what this rank communicates in one optimizer step of a job; process groups of its layout must be up."""
    engine = build(job)
    batches = [micro_batch(job, number) for number in range(job.micro_batches)]
    with counted_traffic() as traffic:
        engine.step(batches, 0)
    return named(traffic)


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Take a step in every layout of so many processes, training all weights and adapters; figures are those of each stage."""
    jobs = _jobs(settings)
    return {"cases": [{"layout": layout, "trained": job.kind, "stages": _counted(job)} for layout, job in jobs]}


def _jobs(settings: dict[str, Any]) -> list[tuple[str, TrainingJob]]:
    config, size, rows = LlavaConfig.from_dict(settings["sizes"]), settings["communication"], settings["pairs"]
    answer = max(rows["answer_words"])
    plain = TrainingJob(
        config=config,
        parallel=ParallelConfig(),
        engine=EngineConfig("fp32"),
        lora=None,
        method=PREFERENCE,
        workload=Workload(config.tokens_per_image + rows["prompt_words"] + answer, answer),
        nodes=1,
        gpus_per_node=runtime.world_size(),
        micro_batch_size=settings["layout_pairs"],
        global_batch_size=settings["layout_pairs"] * size["micro_batches"],
        shared_prefix=True,
    )
    adapters = LoRAConfig(size["lora_rank"], 2 * size["lora_rank"], dropout=0.0)
    return [
        (name, replace(plain, parallel=_divided(ParallelConfig(*layout), config), lora=lora))
        for name, layout in settings["layouts"].items()
        for lora in (None, adapters)
    ]


def _divided(parallel: ParallelConfig, config: LlavaConfig) -> ParallelConfig:
    """Of an odd number of layers the stage with the tower has less."""
    first = config.language.num_layers // 2 if parallel.pipeline_model_parallel_size == 2 else None
    return replace(parallel, num_layers_in_first_pipeline_stage=first)


def _counted(job: TrainingJob) -> list[dict[str, Any]]:
    """Counted and computed bytes of each stage's first rank."""
    runtime.initialize(job.parallel, SEED)
    stage = int(parallel_state.get_pipeline_model_parallel_rank())
    formula = step_traffic(job, stage)
    own = {"stage": stage, "counted": traffic_of_step(job), "formula": named(formula), "wire": wire_bytes(formula, job)}
    found: list[Any] = [None] * runtime.world_size()
    torch.distributed.all_gather_object(found, own)
    parallel_state.destroy_model_parallel()
    return list({each["stage"]: each for each in reversed(found)}.values())[::-1]
