"""A rank of the doctor whose first rank goes: a job that is preempted during its checks has no mistake in its settings."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from tests.distributed import free_port
from tests.unit.test_preflight_ranks import outputs, start

pytestmark = pytest.mark.parallel


def test_when_rank_0_is_gone_the_others_end_and_leave_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note, port = tmp_path / "FAULT", free_port()
    monkeypatch.setenv("NEMO_MM_ALIGN_FAULT_FILE", str(note))
    leader = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=600))
    rank = start(1, 2, port, f"write=[{tmp_path}]", "timeout_s=600")
    leader.wait(["doctor/0.0/here/1"])
    del leader
    (text,) = outputs([rank])
    assert rank.returncode == 1 and "error: rank 1: rank 0 went silent" in text and "Traceback" not in text
    assert not note.exists(), "with a note the job would not be requeued"
