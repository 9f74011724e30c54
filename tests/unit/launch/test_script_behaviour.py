"""What a rendered Slurm script does, run by bash: `srun`, `scontrol` and `scancel` are small stand-ins here.

tests/slurm runs the same scripts on a real Slurm; this shows each branch in a fraction of a second.
"""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.unit.launch.cases import scripts
from tests.waiting import PATIENCE_S, wait_until

PROGRAMS = {
    "srun": 'while [[ "$1" == -* ]]; do shift; done; exec "$@"',
    "scontrol": """
case "$1" in
    requeue) echo "$2" >> "$CALLS/requeued"; kill "$PPID" ;;
    show) [ "$2" = hostnames ] && printf 'n1\\nn2\\n' || echo "NodeName=n1 NodeAddr=10.0.0.7 Version=22" ;;
esac""",
    "scancel": 'echo "$*" >> "$CALLS/cancelled"; kill -TERM "$(cat "$CALLS/stage")"',
    "python": """
echo "$*" >> "$CALLS/started"; echo "$MASTER_ADDR:$MASTER_PORT" >> "$CALLS/rendezvous"
case "$*" in *doctor.py*) eval "${DOCTOR:-}"; exit "${DOCTOR_CODE:-0}" ;; esac
echo $$ > "$CALLS/stage"
eval "$STAGE\"""",
}
PROGRAMS["python"] = PROGRAMS["python"].replace('\\"', '"')


class Script:
    """A rendered script of one stage and the folder in which it runs."""

    def __init__(self, folder: Path, stage: str, *overrides: str) -> None:
        self.calls, self.results = folder / "calls", folder / "results/first"
        programs = folder / "programs"
        for path in (self.calls, programs, self.results / "dpo", folder / "code"):
            path.mkdir(parents=True)
        for name, text in PROGRAMS.items():
            (programs / name).write_text(f"#!/bin/bash\n{text}\n")
            (programs / name).chmod(0o755)
        places = [
            f"base_results_dir={folder}/results",
            f"launcher_scripts_path={folder}/code",
            f"python={programs}/python",
        ]
        self.path = folder / "job.sh"
        self.path.write_text(self.script(self.rendered(stage, *places, *overrides)))
        self.done, self.stop = self.results / "dpo/DONE", self.results / "STOP"
        self.environment = {
            **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(self.calls),
            "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "n[1-2]", "STOP": str(self.stop), "DONE": str(self.done),
        }  # fmt: skip

    def rendered(self, stage: str, *overrides: str) -> str:
        return scripts(*overrides, stages=[stage])[stage]

    def script(self, rendered: str) -> str:
        return rendered

    def start(self, stage: str, **variables: str) -> subprocess.Popen[bytes]:
        environment = {**self.environment, "STAGE": stage, **variables}
        return subprocess.Popen(
            ["bash", self.path], env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    def run(self, stage: str, **variables: str) -> int:
        return self.start(stage, **variables).wait(timeout=PATIENCE_S)

    def lines(self, name: str) -> list[str]:
        path = self.calls / name
        return path.read_text().splitlines() if path.is_file() else []


@pytest.fixture
def training(tmp_path: Path) -> Script:
    return Script(tmp_path, "train", "cluster.max_requeues=2")


@pytest.mark.parametrize("code", [0, 1, 2, 137])
def test_with_the_marker_the_job_is_done_however_it_ended(training: Script, code: int) -> None:
    assert training.run(f'touch "$DONE"; exit {code}') == 0
    assert not training.lines("requeued")


@pytest.mark.parametrize("code", [0, 1, 2, 86, 137, 143])
def test_without_the_marker_it_is_requeued(training: Script, code: int) -> None:
    assert training.run(f"exit {code}") == -signal.SIGTERM  # the stand-in ends the shell, as Slurm does
    assert training.lines("requeued") == ["4711"]


@pytest.mark.parametrize(("code", "ends_with"), [(0, 1), (1, 1), (137, 137)])
def test_after_the_last_requeue_it_fails(training: Script, code: int, ends_with: int) -> None:
    assert training.run(f"exit {code}", SLURM_RESTART_COUNT="2") == ends_with
    assert not training.lines("requeued")


@pytest.mark.parametrize("code", [1, 2, 143])
def test_a_mistake_in_the_settings_is_not_tried_again(training: Script, code: int) -> None:
    assert training.run(f'echo "no such file" > "$NEMO_MM_ALIGN_FAULT_FILE"; exit {code}') == 2
    assert not training.lines("requeued")
    assert training.run("exit 1") == -signal.SIGTERM  # the next start does not remember it
    assert training.lines("requeued") == ["4711"]


def test_red_preflight_ends_the_job_with_its_code(training: Script) -> None:
    assert training.run('touch "$DONE"', DOCTOR_CODE="2") == 2
    assert len(training.lines("started")) == 1 and not training.lines("requeued")


def test_preflight_that_was_killed_is_tried_again(training: Script) -> None:
    assert training.run('touch "$DONE"', DOCTOR_CODE="143") == -signal.SIGTERM
    assert len(training.lines("started")) == 1 and training.lines("requeued") == ["4711"]


def test_a_stage_is_not_started_when_the_job_was_asked_to_stop_before(training: Script) -> None:
    asked = 'kill -USR1 "$PPID"; until [ -e "$STOP" ]; do sleep 0.02; done'
    assert training.run('touch "$DONE"', DOCTOR=asked) == -signal.SIGTERM
    assert len(training.lines("started")) == 1 and training.lines("requeued") == ["4711"]


def test_preflight_and_stage_get_the_training_configuration(training: Script) -> None:
    assert training.run('touch "$DONE"') == 0
    doctor, stage = training.lines("started")
    assert doctor.startswith("-u scripts/doctor.py stages=[train] ") and stage.startswith("-u scripts/train.py ")
    assert doctor.partition("stages=[train] ")[2] == stage.partition("train.py ")[2]


def test_address_of_the_first_node_and_a_new_port_after_a_restart(training: Script) -> None:
    training.run('touch "$DONE"')
    training.run('touch "$DONE"', SLURM_RESTART_COUNT="1")
    first, _, second, _ = training.lines("rendezvous")
    assert first == f"10.0.0.7:{15000 + 4711 * 16 % 16000}" and second == f"10.0.0.7:{15001 + 4711 * 16 % 16000}"


def test_where_node_records_are_hidden_the_name_of_the_first_node_counts(training: Script) -> None:
    scontrol = training.path.parent / "programs/scontrol"
    scontrol.write_text('#!/bin/bash\n[ "$2" = hostnames ] && printf "n1\\nn2\\n"\n')
    training.run('touch "$DONE"')
    assert training.lines("rendezvous")[0].startswith("n1:")


def asked_to_stop(script: Script, stage: str, number: signal.Signals = signal.SIGUSR1) -> int:
    process = script.start(stage)
    wait_until(
        lambda: script.lines("stage"), lambda: f"exit code {process.returncode}" if process.poll() is not None else None
    )
    process.send_signal(number)
    return process.wait(timeout=PATIENCE_S)


def test_usr1_touches_the_stop_file_and_waits_for_the_stage(training: Script) -> None:
    stage = 'until [ -e "$STOP" ]; do sleep 0.02; done; sleep 0.3; touch "$CALLS/saved"; exit 0'
    training.stop.touch()  # of an earlier start: removed, or the stage would stop before it is asked
    assert asked_to_stop(training, f'[ -e "$STOP" ] && touch "$CALLS/stale"; {stage}') == -signal.SIGTERM
    assert (training.calls / "saved").exists() and not (training.calls / "stale").exists()
    assert training.lines("requeued") == ["4711"]


def test_a_stop_file_of_somebody_else_ends_the_job_for_good(training: Script) -> None:
    assert training.run('touch "$STOP"; exit 0') == 1
    assert not training.lines("requeued")
    assert training.run('touch "$DONE"') == 0, "the next launch goes on"


def test_usr1_in_the_last_steps_does_not_requeue_a_finished_run(training: Script) -> None:
    assert asked_to_stop(training, 'until [ -e "$STOP" ]; do sleep 0.02; done; touch "$DONE"; exit 0') == 0
    assert not training.lines("requeued")


def test_stages_without_a_marker_are_done_when_their_script_says_so(tmp_path: Path) -> None:
    script = Script(tmp_path, "sample")
    assert script.run("exit 0") == 0 and not script.lines("requeued")
    assert script.run("exit 143") == -signal.SIGTERM and script.lines("requeued") == ["4711"]


def test_label_is_stopped_by_a_signal_and_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(tmp_path, "label", "label.judge=oracle")
    stage = """trap 'touch "$CALLS/saved"; exit 143' TERM; while true; do sleep 0.02; done"""
    assert asked_to_stop(script, stage) == -signal.SIGTERM
    assert (script.calls / "saved").exists() and not script.stop.exists()
    assert script.lines("cancelled") == ["--signal=TERM 4711"] and script.lines("requeued") == ["4711"]
