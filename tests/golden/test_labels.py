"""A ledger of 1a72c78: today's code knows all of it, asks nothing, and writes the same annotations."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed import REPOSITORY
from tests.golden.labels import KEY, PROMPTS, SET_ASIDE, words
from tests.golden.runs import GOLDEN
from tests.judge_server import JudgeServer, judge_server
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.e2e

LEDGER, RESULTS = "annotations.ledger.jsonl", ("annotations.jsonl", "annotations.unlabelled.jsonl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The input and the ledger, without what was made of it."""
    folder = shutil.copytree(GOLDEN / "labels", tmp_path / "labels")
    for name in (*RESULTS, "annotations.settings.json"):
        (folder / name).unlink()
    return folder


def label(folder: Path, server: JudgeServer) -> str:
    """Run `scripts/label.py` to its end: two prompts have no judgement, which its exit code says."""
    environment = {**os.environ, "GEMINI_API_KEY": KEY, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "scripts/label.py"), *words(server.address)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2 and f"{SET_ASIDE} of {PROMPTS} prompts have no annotation" in done.stderr, done.stderr
    return done.stderr


def test_nothing_is_asked_and_the_annotations_are_the_same(folder: Path) -> None:
    ledger = (folder / LEDGER).read_bytes()
    with judge_server() as server:
        label(folder, server)
        assert server.exchanges == []
    assert (folder / LEDGER).read_bytes() == ledger
    for name in RESULTS:
        assert (folder / name).read_bytes() == (GOLDEN / "labels" / name).read_bytes(), name


def test_what_the_ledger_lacks_is_asked_and_comes_out_the_same(folder: Path) -> None:
    """The service judges as it did: the question, the order of its candidates and the reading of the reply are the same."""
    lines = (folder / LEDGER).read_text(encoding="utf-8").splitlines(keepends=True)
    judgements = [line for line in lines if json.loads(line).get("status") == "ok"]
    assert len(judgements) == PROMPTS - SET_ASIDE
    (folder / LEDGER).write_text("".join(line for line in lines if line not in judgements[-2:]), encoding="utf-8")
    with judge_server() as server:
        label(folder, server)
        assert len(server.exchanges) == 2
    assert (folder / "annotations.jsonl").read_bytes() == (GOLDEN / "labels/annotations.jsonl").read_bytes()
    added = (folder / LEDGER).read_text(encoding="utf-8").splitlines()[-2:]
    for old, new in zip(map(json.loads, judgements[-2:]), map(json.loads, added), strict=True):
        passing = ("time", "seconds")
        assert {k: v for k, v in new.items() if k not in passing} == {k: v for k, v in old.items() if k not in passing}
