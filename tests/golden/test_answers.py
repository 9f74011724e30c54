"""Files of answers that 1a72c78 was killed at: today's code keeps what is there and ends with the answers of a whole run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed import REPOSITORY
from tests.golden.answers import DECODING, words
from tests.golden.runs import GOLDEN
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.e2e

ANSWERS = GOLDEN / "answers"


@pytest.mark.parametrize("name", DECODING)
def test_it_goes_on_with_a_half_finished_file(name: str, tmp_path: Path) -> None:
    out = tmp_path / f"half_{name}.jsonl"
    for file in ANSWERS.glob(f"half_{name}.*"):
        shutil.copy(file, tmp_path)
    half, whole = (path.read_text(encoding="utf-8") for path in (out, ANSWERS / f"{name}.jsonl"))
    rows, total = half.count("\n"), whole.count("\n")
    assert 0 < rows < total and set(half.splitlines()) < set(whole.splitlines())
    first = half.splitlines()[0]
    marked = first.replace('"text":"', '"text":"kept ', 1)  # the row of today's code would not say so
    out.write_text(half.replace(first, marked), encoding="utf-8")

    command = [sys.executable, str(REPOSITORY / "scripts/generate.py")]
    command += words(name, GOLDEN / "model", GOLDEN / "data", out)
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr[-6000:]
    assert f"answers to {total} requests, {rows} of them from before" in done.stdout + done.stderr
    assert out.read_text(encoding="utf-8") == whole.replace(first, marked)
