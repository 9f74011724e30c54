"""What a rendered pod does, run by bash: its exit codes tell Kubernetes and the training operator what to do."""

import signal
from pathlib import Path

import pytest
import yaml

from nemo_mm_align.launch.kubernetes_script import PAUSE_S, TERMINATION_LOG
from tests.unit.launch.cases import KUBERNETES
from tests.unit.launch.test_golden import inner_script
from tests.unit.launch.test_script_behaviour import Script, asked_to_stop

FAILS, MADE_ANEW = 1, 143
NOTE = 'echo "no such file" > "$NEMO_MM_ALIGN_FAULT_FILE"'
VOLUME = "cluster.volumes.shared.mountPath=/"
ONCE = 'n=$(($(cat "$CALLS/n" 2>/dev/null || echo 0) + 1)); echo $n > "$CALLS/n"'


class Pod(Script):
    """A pod of a stage; what Kubernetes and the operator give to it comes from here."""

    def __init__(self, folder: Path, stage: str, *overrides: str) -> None:
        self.log = folder / "termination-log"
        super().__init__(folder, stage, *KUBERNETES, VOLUME, *overrides)
        self.environment |= {"PET_NODE_RANK": "1", "MASTER_PORT": "23456"}

    def script(self, rendered: str) -> str:
        text = inner_script(yaml.safe_load(rendered))
        return text.replace(TERMINATION_LOG, str(self.log)).replace(f"sleep {PAUSE_S} &", "sleep 0.01 &")

    def stages(self) -> int:
        """How often the stage itself was started."""
        return sum("doctor.py" not in line for line in self.lines("started"))

    def counted(self) -> list[str]:
        return [path.read_text().strip() for path in self.results.glob(".starts-*")]


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path, "train", "cluster.max_requeues=2")


@pytest.mark.parametrize("code", [0, 1, 137])
def test_with_the_marker_the_pod_has_succeeded(pod: Pod, code: int) -> None:
    assert pod.run(f'touch "$DONE"; exit {code}') == 0
    assert pod.stages() == 1 and not pod.counted()


@pytest.mark.parametrize("end", [f"{NOTE}; exit 1", f"{NOTE}; exit 143", "exit 2"])
def test_a_mistake_ends_the_job_at_once(pod: Pod, end: str) -> None:
    assert pod.run(end) == 2
    assert pod.stages() == 1 and not pod.counted()


def test_red_checks_end_the_job_before_the_stage(pod: Pod) -> None:
    assert pod.run('touch "$DONE"', DOCTOR=f"{NOTE}; exit 1") == 2
    assert pod.run('touch "$DONE"', DOCTOR_CODE="2") == 2
    assert pod.stages() == 0


def test_a_crash_is_tried_again_in_the_same_pod(pod: Pod) -> None:
    assert pod.run(f'{ONCE}; [ $n -lt 3 ] && exit 137; touch "$DONE"') == 0
    assert pod.stages() == 3 and not pod.counted()
    assert len(pod.lines("started")) == 6, "the checks come before every start"


def test_crashes_end_the_job_after_the_last_restart(pod: Pod) -> None:
    assert pod.run("exit 1") == FAILS
    assert pod.stages() == 3 and not pod.counted()


def test_crashes_end_the_job_where_the_count_cannot_be_written(pod: Pod) -> None:
    (pod.results / ".starts-first_train-1").mkdir()
    assert pod.run("exit 1") == FAILS
    assert pod.stages() == 3


def test_pods_that_were_killed_count_too(pod: Pod) -> None:
    """Killed for memory, or lost with its node: bash has no say then."""
    for starts in ("1", "2", "3"):
        assert pod.run('kill -KILL "$PPID"') == -signal.SIGKILL
        assert pod.counted() == [starts]
    assert pod.run('touch "$DONE"') == FAILS
    assert pod.stages() == 3
    assert pod.run('touch "$DONE"') == 0, "the next launch starts afresh"


def test_a_pod_that_has_to_leave_saves_and_is_made_anew(pod: Pod) -> None:
    stage = 'until [ -e "$STOP" ]; do sleep 0.02; done; sleep 0.3; touch "$CALLS/saved"; exit 0'
    pod.stop.touch()  # of an earlier start
    pod.run('kill -KILL "$PPID"')
    (pod.calls / "stage").unlink()
    assert asked_to_stop(pod, stage, signal.SIGTERM) == MADE_ANEW
    assert (pod.calls / "saved").exists() and not pod.counted(), "what is saved does not count"


def test_a_pod_that_has_to_leave_during_the_checks_does_not_start_the_stage(pod: Pod) -> None:
    asked = 'kill -TERM "$PPID"; until [ -e "$STOP" ]; do sleep 0.02; done'
    assert pod.run('touch "$DONE"', DOCTOR=asked) == MADE_ANEW
    assert pod.run('touch "$DONE"', DOCTOR=f"{asked}; exit 143") == MADE_ANEW
    assert pod.stages() == 0


def test_when_another_pod_leaves_this_one_waits_for_it(pod: Pod) -> None:
    assert pod.run(f'{ONCE}; [ $n -lt 6 ] && {{ touch "$STOP"; exit 0; }}; [ ! -e "$STOP" ] && touch "$DONE"') == 0
    assert pod.stages() == 6, "more often than max_requeues: nothing has gone wrong"


def test_each_pod_counts_for_itself(pod: Pod) -> None:
    pod.run('kill -KILL "$PPID"')
    pod.run('kill -KILL "$PPID"', PET_NODE_RANK="0")
    assert sorted(path.name for path in pod.results.glob(".starts-*")) == [
        ".starts-first_train-0", ".starts-first_train-1"
    ]  # fmt: skip


@pytest.mark.parametrize("code", [0, 1, 2, 143])
def test_a_stage_without_ranks_ends_with_its_code(tmp_path: Path, code: int) -> None:
    pod = Pod(tmp_path, "label")
    assert pod.run(f"exit {code}") == code
    assert pod.run("exit 0", DOCTOR_CODE=str(code)) == code
    assert pod.stages() == (2 if code == 0 else 1)


def test_a_stage_without_ranks_is_handed_the_signal(tmp_path: Path) -> None:
    pod = Pod(tmp_path, "label")
    stage = """trap 'touch "$CALLS/saved"; exit 143' TERM; while true; do sleep 0.02; done"""
    assert asked_to_stop(pod, stage, signal.SIGTERM) == MADE_ANEW
    assert (pod.calls / "saved").exists()
