"""The estimator against what a GPU's allocator says. Needs torch, megatron-core and pytest alone; skips without CUDA."""

from __future__ import annotations

import gc
import os
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from nemo_mm_align.capacity.job import TrainingJob, Workload  # noqa: E402
from nemo_mm_align.capacity.memory import stage_memory  # noqa: E402
from nemo_mm_align.model.config import EngineConfig, LanguageConfig, LlavaConfig, LoRAConfig, VisionConfig  # noqa: E402
from nemo_mm_align.parallel import runtime  # noqa: E402
from tests.parallel.memory_worker import PLAIN, build, micro_batch  # noqa: E402

CONFIG = LlavaConfig(
    LanguageConfig(8, 1024, 2816, num_attention_heads=16, vocab_size=16000),
    VisionConfig(4, 512, 1024, num_attention_heads=8, image_size=112, patch_size=14),
    image_token_id=15999,
)
JOB = replace(PLAIN, config=CONFIG, engine=EngineConfig("bf16"), workload=Workload(1025, answer_tokens=256))
LORA = replace(JOB, lora=LoRAConfig(rank=32, alpha=64))
JOBS = {
    "full": JOB,
    "full, recomputed": replace(JOB, engine=EngineConfig("bf16", recompute="full")),
    "full, fp32": replace(JOB, engine=EngineConfig("fp32")),
    "lora": LORA,
    "dpo": replace(LORA, method="dpo", shared_prefix=True),
}


@pytest.mark.parametrize("name", JOBS)
def test_peak_of_a_step_is_near_the_estimate(name: str) -> None:
    job: TrainingJob = JOBS[name]
    os.environ.setdefault("MASTER_PORT", "29593")
    runtime.initialize(job.parallel, 0)
    gc.collect()  # the engines of other tests: cycles, which would be freed in the middle of this one
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    engine = build(job)
    batches = [micro_batch(job, number) for number in range(job.micro_batches)]
    engine.step(batches, 0)  # the optimizer's state exists from here on
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    engine.step(batches, 1)
    measured = torch.cuda.max_memory_allocated() - before
    expected = stage_memory(job, 0)
    assert expected.peak - expected.context == pytest.approx(measured, rel=0.1)
