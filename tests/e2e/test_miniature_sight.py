"""The tower learns to see by itself: what it is told of each patch, and that nothing else of the model changes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

from nemo_mm_align.miniature.sight import patch_labels
from nemo_mm_align.miniature.truth import Bar, Scene
from nemo_mm_align.miniature.world import BaseSize, SplitSize, WorldSettings, build_world
from nemo_mm_align.model.config import LlavaConfig

pytestmark = pytest.mark.e2e

SMALL = SplitSize(easyvqa=1, charts=1, text=1)
WORLD = WorldSettings(
    train=SMALL,
    dev=SMALL,
    heldout=SMALL,
    base=BaseSize(easyvqa_images=30, charts=30, text=2, captions=2, visual=2),
)


@pytest.fixture(scope="module")
def sizes(repository: Path) -> dict[str, object]:
    values = yaml.safe_load((repository / "conf/model/mini.yaml").read_text())
    return {name: values[name] for name in ("language", "vision", "image_token_id")}


def test_each_patch_is_told_what_its_column_shows(sizes: dict[str, object]) -> None:
    tower = LlavaConfig.from_dict(sizes).vision
    bars = (Bar(colour="black", value=6), Bar(colour="yellow", value=2), Bar(colour="red", value=1))
    row = [[1, 6, 0], [8, 2, 0], [6, 1, 0], [0, 0, 0]]  # the fourth column of three bars is empty
    assert patch_labels(Scene(source="chart", bars=bars), tower) == row * 4
    assert patch_labels(Scene(source="easyvqa", colour="blue", shape="triangle"), tower) == [[2, 0, 3]] * 16


def test_only_the_tower_learns_and_the_same_seed_gives_the_same_weights(
    sizes: dict[str, object], repository: Path, tmp_path: Path
) -> None:
    build_world(tmp_path / "world", WORLD)
    settings = json.dumps({"steps": 120, "batch_size": 32, "lr": 2e-3})
    runs = [["blank", str(tmp_path / "blank"), json.dumps(sizes), "0"]]
    runs += [["sight", *(str(tmp_path / name) for name in ("blank", "world", out)), settings, "0"] for out in "ab"]
    for name, *words in runs:
        command = [sys.executable, "-m", f"nemo_mm_align.miniature.{name}", *words]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    shares = [float(share) for share in re.findall(r"right ([0-9.]+)", done.stderr)]
    assert len(shares) == 2 and shares[-1] > 0.8  # the most frequent class of each label makes 0.6
    before, after, again = (load_file(tmp_path / name / "model.safetensors") for name in ("blank", "a", "b"))
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed and all("vision_tower" in name for name in changed)
    assert all((after[name] == again[name]).all() for name in after)
