"""What torch, TransformerEngine and megatron-core are told on a GPU, and on a node with their packages but no driver."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from nemo_mm_align.model import transformer_configs
from nemo_mm_align.model.config import EngineConfig, LanguageConfig, LlavaConfig, ParallelConfig, VisionConfig
from nemo_mm_align.parallel import cuda, kernels

CONFIG = LlavaConfig(LanguageConfig(2, 64, 128, 4, 512), VisionConfig(2, 32, 64, 2, 28, 14), image_token_id=511)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Switches set back afterwards, and the devices that were chosen."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "")  # monkeypatch puts back what it has seen
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    before = torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True  # as an image may export it
    yield chosen
    torch.backends.cuda.enable_cudnn_sdp(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    torch.backends.cuda.matmul.allow_tf32 = False


def test_a_gpu_is_set_up_whatever_the_image_exports(gpu: list[torch.device]) -> None:
    cuda.prepare(torch.device("cuda", 3))
    assert gpu == [torch.device("cuda", 3)]
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_allocator_that_a_site_chose_stays(
    name: str, gpu: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:512")
    cuda.prepare(torch.device("cuda", 0))
    assert (
        os.environ[name] == "max_split_size_mb:512"
        and len({"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys()) == 1
    )


def test_a_cpu_is_left_alone(gpu: list[torch.device]) -> None:
    cuda.prepare(torch.device("cpu"))
    assert not gpu and "PYTORCH_ALLOC_CONF" not in os.environ and torch.backends.cuda.matmul.allow_tf32


def test_attention_kernels_are_named_in_the_order_in_which_torch_tries_them(
    gpu: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cuda.prepare(torch.device("cuda", 0))
    assert kernels.attention_kernels() == "flash, then memory-efficient, then math"
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert "cuDNN" in kernels.attention_kernels()


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("bf16", (None, None, None)),
        ("fp8_delayed", ("hybrid", 1024, "max")),
        ("fp8_tensorwise", ("hybrid", None, None)),
        ("fp8_blockwise", ("e4m3", None, None)),
    ],
)
def test_fp8_is_scaled_as_transformer_engine_does_it(
    precision: str, expected: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(transformer_configs, "check_precision", lambda engine: None)
    monkeypatch.setattr(transformer_configs, "LayerConfig", lambda **options: given.update(options))
    transformer_configs.language_config(CONFIG, ParallelConfig(), EngineConfig(precision))
    names = ("fp8", "fp8_amax_history_len", "fp8_amax_compute_algo")
    assert tuple(given.get(name) for name in names) == expected
    if precision.startswith("fp8"):
        assert f"fp8_{given['fp8_recipe']}" == precision


NO_DRIVER = """
import torch
from megatron.core import optimizer
from megatron.core.optimizer import clip_grads, optimizer as updates


def broken(*args, **kwargs):
    raise RuntimeError("CUDA driver version is insufficient")

optimizer.Adam = optimizer.SGD = broken
optimizer.USING_PYTORCH_OPTIMIZER = False
clip_grads.l2_norm_impl = clip_grads.multi_tensor_scale_impl = updates.multi_tensor_scale_impl = broken
clip_grads.multi_tensor_applier = updates.multi_tensor_applier = lambda op, *rest: op(*rest)

from nemo_mm_align.parallel.optimizer import state_form
from tests.gpu.cpu_parity_worker import LORA, runtime, steps, ParallelConfig

runtime.initialize(ParallelConfig(), 0)
print(steps("sft", LORA, False)[-1]["loss"], state_form("fp32"))
runtime.shutdown()
"""


def test_fused_kernels_without_a_driver_are_not_used() -> None:
    """An NGC image on a node without GPUs: TransformerEngine is installed, its kernels fail."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NO_DRIVER], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loss, form = done.stdout.split(maxsplit=1)
    assert float(loss) < 6.4 and form.strip() == "torch AdamW for precision=fp32"
