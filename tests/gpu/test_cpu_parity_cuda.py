"""The same steps and answers on the GPU as on the CPU of the same machine, in fp32, TransformerEngine installed or not.

The CPU's process sees no GPU: this is also what an image with TransformerEngine does on a node without a driver.
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
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from tests.distributed import REPOSITORY  # noqa: E402
from tests.gpu.cpu_parity_worker import CASES  # noqa: E402


def run(folder: Path, device: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}", "MASTER_PORT": "0"}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    results = folder / f"{device}.json"
    command = [sys.executable, "tests/gpu/cpu_parity_worker.py", str(results)]
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)
    found: dict[str, Any] = json.loads(results.read_text())
    assert found["device"] == device
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("parity")
    return run(folder, "cpu"), run(folder, "cuda")


@pytest.mark.parametrize("name", [name for name in CASES if name != "answers"])
def test_steps_equal_those_of_the_cpu(name: str, both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """A margin to a reference is a small difference of large sums: bounded by the log-probs' own rounding."""
    cpu, cuda = both
    for step, (expected, found) in enumerate(zip(cpu[name], cuda[name], strict=True)):
        assert found.keys() == expected.keys()
        for metric, value in expected.items():
            if "accurac" in metric and metric.startswith("reward") and step == 0:
                continue  # the policy is the reference: which answer is ahead, rounding decides
            assert found[metric] == pytest.approx(value, rel=1e-3, abs=1e-3, nan_ok=True), metric


def test_answers_equal_those_of_the_cpu(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    cpu, cuda = both
    assert cuda["answers"] == cpu["answers"]
