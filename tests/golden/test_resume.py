"""A LoRA DPO training that 1a72c78 was killed at goes on with today's code, as if nothing had happened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nemo_mm_align.parallel.checkpoint_folder import latest_checkpoint, read_metadata
from tests.distributed import REPOSITORY, run_distributed
from tests.golden.runs import BOUNDS, GOLDEN, LAYOUTS, RESUMED, SAVED_STEP, STEPS, losses, resumed_overrides, worst

pytestmark = pytest.mark.parallel


def test_a_checkpoint_of_1a72c78_opens_as_a_file_of_format_version_1() -> None:
    folder = latest_checkpoint(GOLDEN / "run")
    assert folder is not None and folder.name == f"step_{SAVED_STEP:08d}"
    assert json.loads((folder / "metadata.json").read_text())["format_version"] == 1
    metadata = read_metadata(folder)
    assert (metadata.step, metadata.recipe["name"], metadata.recipe["beta"]) == (SAVED_STEP, "dpo", 0.1)
    assert metadata.lora is not None and metadata.lora["rank"] == 4


def test_it_is_resumed_without_a_reference_and_with_the_losses_of_1a72c78(tmp_path: Path) -> None:
    run = shutil.copytree(GOLDEN / "run", tmp_path / "resumed")
    before = (run / "metrics/training.jsonl").read_text().splitlines()
    cache = {path.name: path.read_bytes() for path in (run / "reference_log_probs").iterdir()}
    words = resumed_overrides(GOLDEN / "model", GOLDEN / "data", tmp_path)
    output = run_distributed(REPOSITORY / "scripts/train.py", LAYOUTS[RESUMED[1]][0], *words)
    assert "reference log-probs: 12 samples, 0 computed now, the rest cached" in output
    assert f"12 samples, {STEPS} steps of 4, from step {SAVED_STEP};" in output
    assert {path.name: path.read_bytes() for path in (run / "reference_log_probs").iterdir()} == cache

    name = "_".join(RESUMED)
    known = {name: json.loads((GOLDEN / "losses.json").read_text())[name]}
    found = worst({name: losses(run)}, known)
    assert all(found[number] <= BOUNDS[number] for number in BOUNDS), found
    after = (run / "metrics/training.jsonl").read_text().splitlines()
    assert after[:SAVED_STEP] == before[:SAVED_STEP] and len(before) == SAVED_STEP + 1
    newest = latest_checkpoint(run)
    assert newest is not None and newest.name == f"step_{STEPS:08d}" and read_metadata(newest).format_version == 2
