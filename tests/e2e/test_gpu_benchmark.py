"""The GPU benchmark as a whole at toy size: every step runs on a CPU, or says why it cannot; figures mean nothing here."""

import json
import subprocess
import sys

import pytest

from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STEPS = ["tests", "ceilings", "train", "decode", "fp8", "attention", "peer", "methods"]
TRAINED = {
    "toy bf16 dpo LoRA, 1 pair, shared prefix": [1, 33],
    "toy bf16 dpo LoRA, 2 pairs, shared prefix": [2, 33],
    "toy bf16 dpo LoRA, 4 pairs, shared prefix": [4, 33],
    "toy bf16 dpo LoRA, 8 pairs, shared prefix": [8, 33],
    "toy bf16 dpo LoRA, 2 pairs, separate rows": [4, 24],
    "toy bf16 dpo LoRA, 4 pairs, shared prefix + lora + mlp + rope + dropout + losses + attention": [4, 33],
    "toy bf16 dpo LoRA, 4 pairs, shared prefix + no dropout": [4, 33],
    "toy bf16 dpo LoRA, 2 pairs, shared prefix + cudnn": [2, 33],
    "toy recompute full bf16 dpo LoRA, 8 pairs, shared prefix": [8, 33],
    "toy bf16 sft LoRA, 4 answers": [4, 24],
    "toy bf16 steerlm LoRA, 4 answers": [4, 84],
    "toy recompute full bf16 sft full, 4 answers": [4, 24],
    "toy 1 layers bf16 dpo full, 2 pairs, shared prefix": [2, 33],
}
NEEDS_A_GPU = {
    "tests": ["tests/gpu"],
    "fp8": ["toy fp8_tensorwise dpo LoRA", "toy fp8_delayed dpo LoRA", "toy fp8_blockwise dpo LoRA"],
    "attention": [
        "1 rows of 36, mask, EFFICIENT_ATTENTION",
        "4 rows of 36, plain causal by flash: a floor, wrong for these rows",
        "4 rows of 36, FlexAttention",
    ],
}


def test_all_steps_at_toy_size(tmp_path, repository):
    pytest.importorskip("peft")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "nemo_mm_align.benchmarks.gpu", "size=toy", f"out={out}", f"budget_s={PATIENCE_S}"]
    run = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=PATIENCE_S)
    assert run.returncode == 0, run.stderr
    assert run.stdout == (out / "gpu.md").read_text()
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    log = (out / "log.txt").read_text()
    assert not [line for line in lines if "error" in line], log
    check_steps(lines)
    check_cases({(line["step"], line["name"]): line for line in lines})
    for text in ("Card: no GPU", "Command: `python -m", "size=toy", "with LoRA 4 N per token", "trains as bf16"):
        assert text in run.stdout
    assert "| fp8 | toy fp8_delayed dpo LoRA | skipped | FP8 needs a GPU |" in run.stdout


def check_steps(lines):
    assert [(line["step"], line["exit_code"]) for line in lines if line.get("kind") == "step"] == [
        (s, 0) for s in STEPS
    ]
    for line in lines:
        assert {"card", "driver", "versions", "run", "command", "name"} <= set(line)


def check_cases(cases):
    rows = {name: line["rows"] for (_, name), line in cases.items() if "rows" in line}
    assert {name: rows.get(name) for name in TRAINED} == TRAINED
    for step, names in NEEDS_A_GPU.items():
        for name in names:
            assert "need" in cases[step, name]["skipped"]
    for rows in ("1 row", "16 rows", "64 rows"):
        assert cases["decode", f"toy bf16 local, {rows}, prompts of one length"]["new_tokens"] == 7
    twin = cases["fp8", "toy fp32 dpo LoRA, twin"]  # stands in for FP8, which differs more
    assert 0 < twin["loss_distance"] < 0.005 and 0.99 < twin["gradient_cosine"] < 1
    assert twin["losses"][-1] < twin["losses"][0]
    for name in ("1 rows of 36, two causal calls", "4 rows of 36, by trees (ours without a mask)"):
        assert cases["attention", name]["max_difference"] < 1e-5
    peer = cases["peer", "toy transformers + PEFT, 2 pairs, cached reference"]
    assert (peer["pairs"], peer["cached"]) == (2, True)


def test_through_hydra(tmp_path, repository):
    out = tmp_path / "out"
    command = [sys.executable, "scripts/benchmark.py", "parts=[gpu]", "gpu.size=toy", "gpu.steps=[ceilings]"]
    command += [f"gpu.out={out}", f"out={tmp_path / 'all.json'}"]
    run = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=PATIENCE_S)
    assert run.returncode == 0, run.stderr
    table = (out / "gpu.md").read_text()
    assert table.rstrip() in run.stdout and "| bf16 product |" in table
    assert json.loads((tmp_path / "all.json").read_text())["gpu"] == table
