"""One owner for a folder or file: second starts, crashed owners, other machines, containers, and races for a stale lock."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_mm_align.core import lock
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.owner import Attempt, Owner, start_of
from tests.conftest import REPOSITORY
from tests.waiting import wait_until

REMEDY = "give another out"
HOLD = """
import sys
from pathlib import Path
from nemo_mm_align.core import lock
lock.take(Path(sys.argv[1]), "results", "give another out")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "owner.json"
    lock.release(tmp_path / "owner.json")


def hold(path: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def forge(path: Path, **changes: object) -> Owner:
    """Leave a lock as some other process would."""
    owner = Owner.here().model_copy(update=changes)
    path.write_text(owner.to_json())
    return owner


def elsewhere(path: Path, **changes: object) -> Owner:
    return forge(path, host="node7", boot="another boot", pid_namespace="another", pid=4711, **changes)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        lock.take(path, "results", REMEDY)
    return str(caught.value)


def test_a_second_process_is_refused_with_the_first_ones_name_until_that_ends(path: Path) -> None:
    process = hold(path)
    text = refusal(path)
    assert text.startswith(f"results: process {process.pid} on {Owner.here().host} (-c, since ")
    assert text.endswith("writes it. Wait for its end, or end it; or give another out.")
    process.communicate("")
    assert process.returncode == 0 and not path.exists()
    lock.take(path, "results", REMEDY)
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_an_owner_that_was_killed_is_followed_with_a_line_in_the_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = hold(path)
    process.kill()
    process.communicate()
    lock.take(path, "results", REMEDY)
    assert f"results: going on after process {process.pid} on" in caplog.text and "which has ended" in caplog.text
    assert Owner.from_json(path.read_text()).pid == os.getpid()


def test_a_process_that_only_has_the_owners_number_is_not_the_owner(path: Path) -> None:
    forge(path, pid=os.getppid(), started="1")
    lock.take(path, "results", REMEDY)
    lock.release(path)
    forge(path, pid=os.getppid(), started=start_of(os.getppid()))
    assert f"process {os.getppid()} on" in refusal(path)


@pytest.mark.parametrize(("age_s", "words"), [(40, "40 s old"), (3 * 3600, "3 h old")])
def test_of_another_machine_it_says_that_it_cannot_know(path: Path, age_s: int, words: str) -> None:
    elsewhere(path)
    os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    text = refusal(path)
    assert "results: process 4711 on node7 " in text and "cannot know whether it still runs" in text and words in text
    assert f"If it has ended, remove {path} and start again" in text and path.exists()


@pytest.mark.parametrize(
    ("environment", "left", "taken"),
    [
        ({"NEMO_MM_ALIGN_JOB": "first_train"}, {"job": "first_train"}, True),
        ({"NEMO_MM_ALIGN_JOB": "first_train"}, {"job": "second_train"}, False),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "1"}, {"slurm": Attempt(name="12")}, True),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "1"}, {"slurm": Attempt(name="12", number=1)}, False),
        ({"SLURM_JOB_ID": "13", "SLURM_RESTART_COUNT": "1"}, {"slurm": Attempt(name="12")}, False),
        ({"TORCHELASTIC_RUN_ID": "r", "TORCHELASTIC_RESTART_COUNT": "2"}, {"torchrun": Attempt(name="r")}, True),
        ({"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "2"}, {"torchrun": Attempt()}, False),
        ({}, {"job": "", "slurm": Attempt(), "torchrun": Attempt()}, False),
    ],
)
def test_a_job_that_is_started_again_on_another_machine_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], left: dict[str, object], taken: bool
) -> None:
    elsewhere(path, **left)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if taken:
        lock.take(path, "results", REMEDY)
        assert Owner.from_json(path.read_text()).pid == os.getpid()
    else:
        assert "cannot know" in refusal(path)


def test_a_machine_that_has_rebooted_ran_it_no_longer(path: Path) -> None:
    forge(path, boot="the boot before")
    assert "cannot know" in refusal(path)  # with a fresh sign of life it may be another machine of that name
    os.utime(path, (path.stat().st_mtime - 61,) * 2)
    lock.take(path, "results", REMEDY)


def test_another_container_of_this_machine_is_known_by_the_kernels_lock(path: Path) -> None:
    process = hold(path)
    owner = Owner.from_json(path.read_text())
    assert owner.locked
    with path.open("r+") as file:  # in place: the lock is on this file
        file.write(owner.model_copy(update={"pid_namespace": "another"}).to_json())
        file.truncate()
    assert f"process {process.pid} on" in refusal(path) and "Wait for its end" in refusal(path)
    process.kill()
    process.communicate()
    lock.take(path, "results", REMEDY)


def test_a_lock_that_says_nothing_is_left_alone(path: Path) -> None:
    path.write_text("")
    assert refusal(path) == (
        f"results: {path} says that a process writes it, but not which. If none does, remove that file; else {REMEDY}."
    )


def test_without_hard_links_there_is_one_owner_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    process = hold(path)
    monkeypatch.setattr(os, "link", refuse)
    assert f"process {process.pid} on" in refusal(path)
    process.communicate("")
    lock.take(path, "results", REMEDY)
    assert Owner.from_json(path.read_text()).pid == os.getpid()


def test_a_servers_lost_answer_does_not_lose_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def ask_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)  # raises FileExistsError, although the name is ours

    monkeypatch.setattr(os, "link", ask_twice)
    lock.take(path, "results", REMEDY)
    assert Owner.from_json(path.read_text()).pid == os.getpid()


def race(path: Path, start: "multiprocessing.synchronize.Barrier", won: "multiprocessing.Queue[int]") -> None:
    start.wait()
    try:
        lock.take(path, "results", REMEDY)
        won.put(1)
    except UserError:
        won.put(0)
    start.wait()  # nobody ends, and gives the lock back, before all have tried


def test_of_many_that_find_a_stale_lock_one_takes_it(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        forge(path, pid=os.getppid(), started="1")
        start, won = context.Barrier(6), context.Queue()
        processes = [context.Process(target=race, args=(path, start, won)) for _ in range(6)]
        for process in processes:
            process.start()
        assert sum(won.get(timeout=60) for _ in processes) == 1
        for process in processes:
            process.join()


def test_a_worker_whose_launcher_has_gone_is_waited_for(path: Path) -> None:
    launcher = subprocess.Popen(["sleep", "0"])
    gone = start_of(launcher.pid) or "1"
    launcher.wait()
    worker = subprocess.Popen(["sleep", "600"])
    forge(path, pid=worker.pid, started=start_of(worker.pid), launcher=launcher.pid, launcher_started=gone)
    end = threading.Timer(0.5, worker.kill)
    end.start()
    lock.take(path, "results", REMEDY)
    assert worker.wait() != 0


def test_a_forked_process_does_not_give_it_back(path: Path) -> None:
    lock.take(path, "results", REMEDY)
    child = multiprocessing.get_context("fork").Process(target=lock.release, args=(path,))
    child.start()
    child.join()
    assert path.exists()


def test_it_shows_that_its_owner_lives(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.01)
    lock.take(path, "results", REMEDY)
    os.utime(path, (1, 1))
    wait_until(lambda: path.stat().st_mtime > 1)


def test_what_was_reserved_is_taken_once(path: Path) -> None:
    lock.reserve(path, "results", REMEDY)
    with lock.owned(path, "results", REMEDY):
        assert f"process {os.getpid()} on" in refusal(path)
    assert not path.exists() and list(path.parent.iterdir()) == []


def test_two_names_of_a_file_have_one_lock(tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").symlink_to(tmp_path / "answers.jsonl")
    assert lock.lock_of(tmp_path / "other.jsonl") == lock.lock_of(tmp_path / "answers.jsonl")
