"""The doctor as a command: alone, with two real ranks over gloo, and with ranks that are missing or blind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.distributed import free_port, run_distributed
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.parallel


def start(rank: int, world_size: int, port: int, *arguments: object) -> subprocess.Popen:
    """Start one rank as a launcher would; the others may never come."""
    variables = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_NAME": f"node{rank}"}
    return subprocess.Popen(
        [sys.executable, "scripts/doctor.py", *map(str, arguments)],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def outputs(processes: list[subprocess.Popen], timeout: float = PATIENCE_S) -> list[str]:
    """Wait for all of them; none outlives a failing test."""
    try:
        return [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()


def findings_of(report: Path) -> dict[str, dict[str, str]]:
    return {finding["title"]: finding for finding in json.loads(report.read_text())["findings"]}


def test_a_single_process_is_quick_and_never_shows_a_key(tmp_path):
    report = tmp_path / "doctor.json"
    command = [sys.executable, "scripts/doctor.py", "stages=[label]", f"json={report}", f"write=[{tmp_path}]"]
    environment = {**os.environ, "GEMINI_API_KEY": "do-not-show-this"}
    start_time = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE_S)
    assert time.monotonic() - start_time < 100, "it waits for nobody: that would take 120 s"
    assert "do-not-show-this" not in done.stdout + done.stderr + report.read_text()
    assert findings_of(report)["credentials: Gemini"]["detail"] == "GEMINI_API_KEY is set"
    assert done.returncode == json.loads(report.read_text())["exit_code"]


def test_two_ranks_meet_and_sum(tmp_path):
    report = tmp_path / "doctor.json"
    text = run_distributed("scripts/doctor.py", 2, f"write=[{tmp_path}]", f"json={report}", "timeout_s=300")
    assert text.count(" checks") == 1  # rank 0 alone reports
    found = findings_of(report)
    assert found["roll call"]["detail"].startswith("2 ranks on 1 nodes")
    assert "gloo all-reduce over 2 ranks, values right" in found["collectives"]["detail"]
    assert found["same on every rank"]["level"] == "green"
    # Both are amber where a rank of a busy machine is late to look.
    assert "seen by 2 ranks" in found["shared file system"]["detail"]
    assert float(found["clocks"]["detail"].removeprefix("at most ").split()[0]) < 60
    assert list(tmp_path.iterdir()) == [report]  # the token is gone


def test_a_rank_with_another_folder_is_named(tmp_path, monkeypatch):
    """Each node has a folder of its own at the path: rank 1 never sees what rank 0 writes."""
    port = free_port()
    note = tmp_path / "FAULT"  # by which a job script knows that no restart helps
    monkeypatch.setenv("NEMO_MM_ALIGN_FAULT_FILE", str(note))
    ranks = [start(rank, 2, port, f"write=[{tmp_path / str(rank)}]", "timeout_s=40") for rank in (0, 1)]
    texts = outputs(ranks)
    assert [rank.returncode for rank in ranks] == [2, 2]
    assert "ranks 1 (node1) do not see what rank 0 writes" in " ".join(texts[0].split())
    assert "values right" in texts[0]  # the network is fine
    assert texts[1] == ""
    assert note.read_text() == texts[0]


def test_ranks_that_never_come_are_named():
    """Ranks 1 and 2 of three; and, in a run of its own, rank 0, without whom nobody can report but the one that waits."""
    waiting, alone = start(0, 3, free_port(), "timeout_s=3"), start(1, 2, free_port(), "timeout_s=3")
    text, complaint = outputs([waiting, alone])
    assert (waiting.returncode, alone.returncode) == (2, 2)
    assert "these had not come: ranks 1-2 of 3" in " ".join(text.split()) and "RED" in text
    assert "rank 1: rank 0 did not answer at 127.0.0.1" in complaint
