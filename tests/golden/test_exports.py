"""Exported folders are those of 1a72c78: each tensor to the bit (a merged one to its rounding), each file byte for byte."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed import REPOSITORY
from tests.golden.differences import ABSENT, listed
from tests.golden.exports import EXPORTS, digests, same, words
from tests.golden.runs import GOLDEN
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.e2e


def short(value: object) -> str:
    """What the table of differences calls a file's text."""
    return ABSENT if value is None else hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", EXPORTS)
def test_a_folder_is_exported_as_before(name: str, tmp_path: Path) -> None:
    model = shutil.copytree(GOLDEN / "model", tmp_path / "model")
    run = shutil.copytree(GOLDEN / "run", tmp_path / "run")
    for call in words(name, model, run, tmp_path):
        command = [sys.executable, str(REPOSITORY / "scripts/convert.py"), *call]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr[-6000:]
    before = json.loads((GOLDEN / "exports.json").read_text(encoding="utf-8"))[name]
    now = digests(tmp_path / name, model / "model.safetensors", model)
    found = {
        (key, short(before.get(key)), short(now.get(key)))
        for key in {**before, **now}
        if not same(before.get(key), now.get(key))
    }
    allowed = {(row["file"], row["before"], row["after"]) for row in listed("exports") if name in row["folders"]}
    assert found == allowed, {key: now.get(key) for key, *_ in found ^ allowed}
