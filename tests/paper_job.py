"""The paper's largest training, for tests of what estimates say of it."""

from __future__ import annotations

from pathlib import Path

import yaml

from nemo_mm_align.capacity.job import TrainingJob, Workload
from nemo_mm_align.model.config import EngineConfig, LlavaConfig, LoRAConfig, ParallelConfig


def preset(repository: Path, name: str) -> LlavaConfig:
    """Sizes of a file of conf/model."""
    return LlavaConfig.from_dict(yaml.safe_load((repository / f"conf/model/{name}.yaml").read_text()))


def paper_dpo(repository: Path) -> TrainingJob:
    """DPO of the 13B in bf16 with LoRA as the paper has it, two answers of 1,024 tokens behind one prompt."""
    return TrainingJob(
        config=preset(repository, "llava15_13b"),
        parallel=ParallelConfig(),
        engine=EngineConfig("bf16"),
        lora=LoRAConfig(),
        method="dpo",
        workload=Workload(3000),
        nodes=1,
        gpus_per_node=8,
        micro_batch_size=1,
        global_batch_size=128,
        shared_prefix=True,
    )
