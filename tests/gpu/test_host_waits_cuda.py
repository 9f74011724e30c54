"""How often the host really waits for the GPU, as CUDA's own calls tell."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from nemo_mm_align.inference.decode import generate_batch  # noqa: E402
from nemo_mm_align.inference.sampling_settings import SamplingSettings  # noqa: E402
from nemo_mm_align.model.config import EngineConfig, Levers, LoRAConfig, ParallelConfig  # noqa: E402
from nemo_mm_align.model.layer_specs import transformer_engine_available  # noqa: E402
from nemo_mm_align.model.llava import build_llava  # noqa: E402
from nemo_mm_align.parallel import runtime  # noqa: E402
from nemo_mm_align.parallel.optim_config import OptimConfig  # noqa: E402
from nemo_mm_align.recipes.registry import find_recipe  # noqa: E402
from nemo_mm_align.training.step import TrainingEngine  # noqa: E402
from tests.gpu import cpu_parity_worker as small  # noqa: E402


@pytest.fixture(autouse=True)
def one_process() -> None:
    os.environ.setdefault("MASTER_PORT", "29597")
    runtime.initialize(ParallelConfig(), 0)


def waits(action: Callable[[], object]) -> list[str]:
    """The lines at which a synchronising call of CUDA was made."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            action()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # torch also says, once, that this is a prototype.
    return [f"{w.filename}:{w.lineno}" for w in found if "called a synchronizing CUDA operation" in str(w.message)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [None, LoRAConfig(8, 16, dropout=0.05)])
@pytest.mark.parametrize("shared", [False, True])
def test_one_wait_per_optimizer_step(precision: str, lora: LoRAConfig | None, shared: bool) -> None:
    """Shared rows with a mask in fp32, without one in bf16."""
    if precision == "bf16" and not transformer_engine_available():
        pytest.skip("without TransformerEngine megatron-core's own gradient copies wait")
    data = small.batch(shared)
    data = replace(data, reference_log_probs_Q=torch.full((data.num_sequences,), -100.0))
    config = replace(small.CONFIG, language=replace(small.CONFIG.language, head_dim=16))
    levers = Levers(attention=precision == "bf16")
    model = build_llava(config, engine=EngineConfig(precision, levers=levers), lora=lora)
    engine = TrainingEngine(model, find_recipe("dpo").configured(), OptimConfig(), 10, seed=0)
    for step in range(2):
        engine.step([data] * 2, step)
    assert len(waits(lambda: engine.step([data] * 3, 2))) <= 1


@pytest.mark.parametrize("settings", [SamplingSettings(0, max_new_tokens=6), SamplingSettings(0.8, 0.9, 20, 6, 2)])
def test_one_wait_per_decoding_step(settings: SamplingSettings) -> None:
    prompts, images = small.prompts()
    model = build_llava(small.CONFIG, engine=EngineConfig("bf16"))
    found = [
        waits(lambda n=n: generate_batch(model, prompts, images, replace(settings, max_new_tokens=n), [-1]))
        for n in (3, 3, 6)
    ]
    assert len(found[2]) - len(found[1]) == 3, found[2]
