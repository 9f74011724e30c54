"""scripts/benchmark.py at its smallest: every side runs, losses and tokens agree, tables come out."""

import json
import subprocess
import sys

import pytest

from nemo_mm_align.benchmarks.launch import measure
from nemo_mm_align.benchmarks.random_models import write_random_model
from nemo_mm_align.model.config import LlavaConfig
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def benchmark(repository, *overrides):
    command = [sys.executable, "scripts/benchmark.py", "size=smoke", *overrides]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=PATIENCE_S)


def test_training_against_the_peers(repository, tmp_path):
    pytest.importorskip("trl")
    out = tmp_path / "out.json"
    run = benchmark(repository, "parts=[training]", f"out={out}", f"scratch={tmp_path}")
    assert run.returncode == 0, run.stderr
    dpo, sft = json.loads(out.read_text())["training"]
    assert len(dpo["lines"]) == 7 and len(sft["lines"]) == 2
    assert dpo["losses"]["ours, shared prefix"] == pytest.approx(dpo["losses"]["TRL"], rel=1e-4)
    assert dpo["losses"]["ours"] != pytest.approx(0.6931, abs=1e-3)  # policy and reference differ
    assert "| ours, cached reference, shared prefix |" in run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_import_memory_is_summed_over_ranks(tmp_path):
    import torch
    import yaml

    from tests.conftest import REPOSITORY

    sizes = yaml.safe_load((REPOSITORY / "conf/size/smoke.yaml").read_text())["import"]
    write_random_model(tmp_path / "model", LlavaConfig.from_dict(sizes), seed=0, dtype=torch.bfloat16)
    settings = {"folder": str(tmp_path / "model"), "out": str(tmp_path / "out"), "layout": [2, 1]}
    found = measure("conversion", settings, threads=1, processes=2)
    assert found["processes"] == 2 and found["import_bytes"] > 0
    _same_tensors(tmp_path / "model", tmp_path / "out")


def _same_tensors(folder, other):
    """Bit for bit; files need not be equal byte for byte, their headers may list the tensors in another order."""
    from safetensors import safe_open

    paths = [next(place.glob("*.safetensors")) for place in (folder, other)]
    with safe_open(paths[0], "pt") as ours, safe_open(paths[1], "pt") as exported:
        assert set(ours.keys()) == set(exported.keys())
        for name in ours.keys():  # noqa: SIM118  a safetensors file is no mapping
            assert ours.get_tensor(name).dtype == exported.get_tensor(name).dtype
            assert ours.get_tensor(name).equal(exported.get_tensor(name)), name


def test_unknown_part(repository):
    run = benchmark(repository, "parts=[speed]")
    assert run.returncode == 2 and "choose from training" in run.stderr
