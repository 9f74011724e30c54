"""The GPU's stack without a GPU: TransformerEngine's layers constructed in every precision, its fused kernels let alone.

Needs TransformerEngine, torch, megatron-core and pytest, no driver: containers/try_gpu_stack.sh makes such an environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")
pytest.importorskip("transformer_engine.pytorch", exc_type=ImportError)
if torch.cuda.is_available():
    pytest.skip("there is a GPU: tests/gpu is for it", allow_module_level=True)

from nemo_mm_align.model import transformer_configs  # noqa: E402
from nemo_mm_align.model.config import EngineConfig, LoRAConfig, ParallelConfig  # noqa: E402
from nemo_mm_align.model.llava import Llava, build_llava  # noqa: E402
from nemo_mm_align.parallel import checkpoint, runtime  # noqa: E402
from nemo_mm_align.parallel.sharded_state import model_entries  # noqa: E402
from tests.conftest import REPOSITORY  # noqa: E402
from tests.gpu.cpu_parity_worker import CASES, CONFIG, LORA, draw  # noqa: E402
from tests.waiting import PATIENCE_S  # noqa: E402

PRECISIONS = ("fp32", "bf16", "fp8_delayed", "fp8_tensorwise", "fp8_blockwise")
FP8 = {
    "fp8_delayed": ("hybrid", "delayed"),
    "fp8_tensorwise": ("hybrid", "tensorwise"),
    "fp8_blockwise": ("e4m3", "blockwise"),
}


@pytest.fixture(autouse=True)
def one_process() -> None:
    os.environ["MASTER_PORT"] = "0"
    runtime.initialize(ParallelConfig(), 0)


def model(precision: str, implementation: str, lora: LoRAConfig | None) -> Llava:
    """Built as for a Hopper card, whoever asks for one; weights are in the host's memory, where `runtime` computes."""
    options = transformer_configs._shared
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            transformer_configs, "_shared", lambda *given: options(*given) | {"use_cpu_initialization": True}
        )
        patched.setattr(torch.cuda, "is_available", lambda: True)
        patched.setattr(torch.cuda, "get_device_capability", lambda *given: (9, 0))
        return build_llava(CONFIG, engine=EngineConfig(precision, implementation), lora=lora)


def described(tensors: Any) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors}


def engine_linears(built: Llava) -> list[str]:
    """Names of the modules that are TransformerEngine's own."""
    return [
        name
        for name, module in built.named_modules()
        if type(module).__mro__[1].__module__.startswith("transformer_engine")
    ]


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_is_constructed_with_the_same_names_and_checkpoint_keys(
    precision: str, lora: LoRAConfig | None
) -> None:
    fused = model(precision, "transformer_engine", lora)
    local = model("bf16" if precision in FP8 else precision, "local", lora)
    assert fused.transformer_impl == "transformer_engine" and engine_linears(fused)
    assert not engine_linears(local)
    assert (fused.config.fp8, fused.config.fp8_recipe) == FP8.get(precision, (None, fused.config.fp8_recipe))
    assert described(fused.named_parameters()) == described(local.named_parameters())
    trainable = [{name for name, p in built.named_parameters() if p.requires_grad} for built in (fused, local)]
    assert trainable[0] == trainable[1] != set()
    for adapted in (False, True) if lora else (False,):
        keys, others = (set(model_entries(built, adapted)) for built in (fused, local))
        scales = {key for key in keys if key.endswith("_extra_state")}
        if precision in FP8:  # left out where a checkpoint has none
            assert scales and keys - scales == {key for key in others if not key.endswith("_extra_state")}
        else:
            assert keys == others


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(("source", "target"), [("local", "transformer_engine"), ("transformer_engine", "local")])
def test_a_checkpoint_opens_with_the_other_kernels(
    source: str, target: str, lora: LoRAConfig | None, tmp_path: Path
) -> None:
    first, second = (model("bf16", implementation, lora) for implementation in (source, target))
    draw(first)
    metadata = checkpoint.CheckpointMetadata(
        step=1, model=CONFIG.to_dict(), lora=vars(lora) if lora else None, template={}, attribute_schema=None,
        image_processor={}, recipe={}, base_path="", base_fingerprint="", precision="bf16",
    )  # fmt: skip
    checkpoint.load(checkpoint.save(tmp_path, first, metadata), second)
    kept = {name: tensor for name, tensor in first.named_parameters() if tensor.requires_grad or lora is None}
    assert kept and all(torch.equal(kept[name], found) for name, found in second.named_parameters() if name in kept)


def test_steps_and_answers_need_no_driver(tmp_path: Path) -> None:
    """As in the NGC image on a node without a GPU: fused kernels are installed, none is taken."""
    command = [sys.executable, "tests/gpu/cpu_parity_worker.py", str(tmp_path / "found.json")]
    variables = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}", "MASTER_PORT": "0"}
    subprocess.run(command, cwd=REPOSITORY, env=variables, check=True, timeout=PATIENCE_S)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["device"] == "cpu" and found.keys() == {"device", *CASES}
    for name in CASES.keys() - {"answers"}:
        losses = [step["loss"] for step in found[name]]
        assert losses[-1] < losses[0] < 10, name
    assert [len(answer) for answer in found["answers"]] == [12, 12]


def test_the_tests_for_a_gpu_are_collected() -> None:
    """None of their modules fails to import on this stack."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.stack.pretended_gpu", "--collect-only", "-q", "tests/gpu"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    assert found == {f"tests/gpu/{path.name}" for path in (REPOSITORY / "tests/gpu").glob("test_*.py")}
    print(next(line for line in done.stdout.splitlines() if "collected" in line))
