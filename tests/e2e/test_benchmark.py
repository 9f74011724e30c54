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
    loss = ("loss.loss_type=[sigmoid,apo_zero]", "loss.loss_weights=[1,0.5]")
    run = benchmark(repository, "parts=[training,lengths]", *loss, f"out={out}", f"scratch={tmp_path}")
    assert run.returncode == 0, run.stderr
    found = json.loads(out.read_text())
    dpo, sft = found["training"]
    names = ["TRL", "TRL, precomputed reference", "ours", "ours, cached reference", "ours, shared prefix"]
    assert [line["name"] for line in dpo["lines"]] == [*names, "ours, cached reference, shared prefix"]
    assert len(sft["lines"]) == 2
    assert dpo["losses"]["ours, shared prefix"] == pytest.approx(dpo["losses"]["TRL"], rel=1e-4)
    assert dpo["losses"]["ours"] != pytest.approx(0.6931 + 0.5, abs=1e-3)  # policy and reference differ
    assert "| ours, cached reference, shared prefix |" in run.stdout
    check_lengths(found["lengths"], run.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def check_lengths(results, tables):
    """Losses of all lines are equal, or the command ends; grouped rows are padded less, shared prefixes computed once."""
    *against_peers, adapters = results
    pairs, answers = against_peers
    peers = ["TRL", "TRL, grouped by length", "TRL, grouped by length, precomputed reference (refused)"]
    assert list(pairs["losses"]) == [*peers, "ours, padded", "ours, all"] and pairs["peer"] in peers[:2]
    assert pairs["losses"]["ours, all"] == pytest.approx(pairs["losses"]["TRL"], rel=1e-4)
    others = ["transformers", "transformers, grouped by length"]
    assert list(answers["losses"]) == [*peers[:2], *others, "ours, padded", "ours, shared prefix"]
    for found in against_peers:
        lines = {line["name"]: line for line in found["lines"]}
        assert lines["TRL, grouped by length"]["positions"] <= lines["TRL"]["positions"]
        first, last = (line["positions"] for name, line in lines.items() if name.startswith("ours"))
        assert last < first and all(0 < line["real"] <= 1 for line in lines.values())
    measured = [line["name"] for found in results for line in found["lines"] if "peak_bytes" in line]
    assert measured == ["ours, all"]
    assert "| ours, all |" in tables and "against TRL" in tables
    check_adapters(adapters, pairs["losses"]["ours, all"])


def check_adapters(found, loss):
    """Peers train all weights, so ours stands alone; untrained adapters change no loss, whatever the levers."""
    assert found["case"] == "dpo, adapters" and found["peer"] == "ours, plain"
    assert found["losses"] == pytest.approx({"ours, plain": loss, "ours, all levers": loss}, rel=1e-5)


def test_import_memory_is_summed_over_ranks(tmp_path):
    import torch
    import yaml

    from tests.conftest import REPOSITORY

    sizes = yaml.safe_load((REPOSITORY / "conf/benchmark/size/smoke.yaml").read_text())["import"]
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


def test_serving_against_transformers_under_load_and_over_time(repository, tmp_path):
    out = tmp_path / "out.json"
    run = benchmark(repository, "parts=[serving]", "serving.minutes=0.1", f"out={out}", f"scratch={tmp_path}")
    assert run.returncode == 0, run.stderr
    found = json.loads(out.read_text())["serving"]
    (answers,), (load,), (memory,) = found["against_transformers"], found["load"], found["memory"]
    cases = [(case["kind"], case["at_a_time"], case["answers"]) for case in answers["cases"]]
    assert cases == [("distinct", 1, 4), ("distinct", 3, 4), ("repeated", 4, 4), ("conversations", 2, 6)]
    for case in answers["cases"]:  # where the answers differ beyond rounding it has raised
        assert len(case["seconds"]["ours"]) == 2 and min(case["seconds"]["ours"] + case["cpu"]["ours"]) > 0
        assert case["ties"] <= 1
    (level,) = load["levels"]
    assert level["failed"] == 0 < level["questions"] and level["asked_per_second"] == load["capacity"] / 2
    assert 0 < level["first_token"]["p50"] <= level["first_token"]["p95"] <= level["first_token"]["p99"]
    assert memory["questions"] > 0 and memory["left_out_s"] == pytest.approx(2) and memory["last_mib"] > 100
    assert "| tiny, 4 questions about each picture, 4 at a time |" in run.stdout
    assert "| tiny, 50% of " in run.stdout and "MiB a minute by least squares after the first 2 s" in run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_communication_is_what_the_formula_says_and_batches_are_those_of_transformers(repository, tmp_path):
    out = tmp_path / "out.json"
    run = benchmark(repository, "parts=[communication,data]", f"out={out}", f"scratch={tmp_path}")
    assert run.returncode == 0, run.stderr
    found = json.loads(out.read_text())
    (model,) = found["communication"]
    stages = [(case["layout"], case["trained"], len(case["stages"])) for case in model["cases"]]
    layouts = {"TP2": 1, "TP2 + SP": 1, "PP2": 2, "DP2": 1, "TP2 + SP, PP2": 2}
    assert stages == [(name, kind, count) for name, count in layouts.items() for kind in ("full", "LoRA")]
    for case in model["cases"]:
        for stage in case["stages"]:
            assert stage["counted"] == stage["formula"] != {}, case["layout"]
    lines = found["data"]["lines"]  # where ids or pixels differ it has raised
    assert [(line["kind"], line["workers"]) for line in lines] == [("JPEG", 0), ("JPEG", 1), ("PNG", 0), ("PNG", 1)]
    assert all(min(line["images_per_second"].values()) > 0 for line in lines)
    assert (
        "| tiny, TP2 + SP, PP2, LoRA, stage 1 |" in run.stdout and "Loader processes that a rank needs on" in run.stdout
    )


def test_unknown_part(repository):
    run = benchmark(repository, "parts=[speed]")
    assert run.returncode == 2 and "choose from training" in run.stderr
