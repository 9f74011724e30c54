"""Stopping and naming faults, as far as one process shows it; tests/slurm and tests/parallel have the rest."""

from __future__ import annotations

import math
import os
import queue
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_mm_align.callbacks.stragglers import slow_ranks
from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.run_files import STOP_FILE_VARIABLE
from nemo_mm_align.parallel import runtime, stopping
from nemo_mm_align.parallel.background import _ResultFile
from nemo_mm_align.parallel.stopping import StopRequest, requests
from nemo_mm_align.parallel.watchdog import Place, late_ranks, silent_ranks
from nemo_mm_align.training.settings import FaultSettings
from nemo_mm_align.training.step import TrainingDiverged

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1"}
SRUN = {
    "SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "SLURM_NTASKS": "6", "SLURM_STEP_NUM_TASKS": "3", "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_NODEID": "1",
}  # fmt: skip
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "6", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1, 0, 1, 0)),
        (TORCHRUN, (3, 4, 1, 2, 1)),
        (SRUN, (2, 3, 0, 1, 1)),
        (SRUN | TORCHRUN, (3, 4, 1, 2, 1)),
        (SRUN | {"RANK": "0", "LOCAL_RANK": "0"}, (2, 3, 0, 1, 1)),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_NODEID": "0"}, (2, 3, 0, 4, 0)),
        (BATCH_SCRIPT, (0, 1, 0, 1, 0)),
    ],
    ids=["alone", "torchrun", "srun", "torchrun in srun", "container with a RANK", "even nodes", "batch script"],
)
def test_ranks_come_from_the_launcher(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: tuple[int, ...]
) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_") or name in TORCHRUN]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = (
        runtime.rank(),
        runtime.world_size(),
        runtime.local_rank(),
        runtime.local_world_size(),
        runtime.node_rank(),
    )
    assert found == expected


def test_any_number_of_signals_is_one_request() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with requests(None) as stop:
        assert not stop.here()
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop.here()
        stop.listen()  # as after another library has taken the signals
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_stop_file_is_the_one_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STOP_FILE_VARIABLE, str(tmp_path / "STOP"))
    monkeypatch.setattr(stopping, "_POLL_SECONDS", 600.0)
    stop = StopRequest()
    assert not stop.here()
    (tmp_path / "STOP").touch()
    assert not stop.here(), "not looked at again so soon"
    assert StopRequest().here()
    assert not StopRequest().here(look=False)
    stop.settle()
    assert (tmp_path / "STOP").exists(), "a request that nobody has met stays"
    stop._agreed = stop._found = True
    stop.settle()
    assert (tmp_path / "STOP").exists(), "the job script reads from it why the run has ended"
    monkeypatch.delenv(STOP_FILE_VARIABLE)
    stop.settle()
    assert not (tmp_path / "STOP").exists()


def test_results_of_a_writer_are_read_once(tmp_path: Path) -> None:
    results = _ResultFile()
    with pytest.raises(queue.Empty):
        results.get_nowait()
    results.put({0: [1, 2]})
    assert results.get_nowait() == {0: [1, 2]}
    with pytest.raises(queue.Empty):
        results.get_nowait()


def test_hanging_rank_is_named() -> None:
    at = Place(rank=0, node="n1", step=7, in_step=True, idle_s=31.0, frame="worker.py:12 wait", beats=40)
    waiting = [at, replace(at, rank=1), replace(at, rank=2)]
    later = [replace(place, beats=42) for place in waiting]
    assert silent_ranks(waiting, later) == []
    assert late_ranks(later) == []
    assert late_ranks([later[0], replace(later[1], in_step=False), later[2]]) == [1]
    assert late_ranks([later[0], later[1], replace(later[2], step=6)]) == [2]
    assert silent_ranks(waiting, [later[0], waiting[1], later[2]]) == [1]
    assert silent_ranks(waiting, [later[0], later[1], None]) == [2]
    assert str(at) == "rank 0 on n1: in step 8 for 31 s, at worker.py:12 wait"
    assert "before step 8 (data" in str(replace(at, in_step=False))


def test_slow_ranks_stand_out_from_the_median() -> None:
    assert slow_ranks([0.10, 0.11, 0.45, 0.09], ratio=2.0, floor_s=0.02) == [2]
    assert slow_ranks([0.10, 0.45], ratio=2.0, floor_s=0.02) == [1]
    assert slow_ranks([0.001, 0.004], ratio=2.0, floor_s=0.02) == []
    assert slow_ranks([0.3, 0.31], ratio=2.0, floor_s=0.02) == []


def test_divergence_names_the_samples_that_are_not_finite() -> None:
    parts = [{"samples": ["a", "b"], "loss": 0.7}, {"samples": ["c"], "loss": math.nan}]
    error = TrainingDiverged(4, "the loss is nan", parts)
    assert "step 5: the loss is nan" in str(error) and "Samples: c. " in str(error)
    assert "Samples: a, b. " in str(TrainingDiverged(4, "the gradient norm is inf", parts[:1]))
    many = TrainingDiverged(0, "", [{"samples": [str(index) for index in range(20)], "loss": 1.0}])
    assert "15 and 4 more" in str(many) and many.report["step"] == 1


@pytest.mark.parametrize("changes", [{"distributed_timeout_s": 0}, {"hang_timeout_s": -1}, {"straggler_ratio": 1.0}])
def test_fault_settings_out_of_range_are_named(changes: dict[str, float]) -> None:
    with pytest.raises(UserError, match="faults"):
        read(FaultSettings, changes, "faults")
