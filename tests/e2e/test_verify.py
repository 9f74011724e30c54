"""containers/verify.sh: every step for real on the CPU, what goes wrong on the way, and the command lines of an engine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_mm_align.benchmarks.machine import descendants
from tests.conftest import REPOSITORY
from tests.forking import as_in_the_shell
from tests.waiting import PATIENCE_S, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SECRET = "wandb-5up3r-s3cr3t"
STEPS = ["imports", "doctor", "tests", "training", "benchmark"]
INTERRUPTED = 130


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHON": sys.executable, "WANDB_API_KEY": SECRET, **more}


def command(report: Path, *words: str) -> list[str]:
    return ["bash", str(REPOSITORY / "containers/verify.sh"), "--out", str(report), *words]


def verify(report: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(report, *words), env=environment(**more), cwd=report.parent, capture_output=True, text=True,
        timeout=PATIENCE_S,
    )  # fmt: skip


def rows(report: Path) -> dict[str, list[str]]:
    """The table at the top: step -> verdict, seconds, what was found."""
    table = report.read_text().split("\n\n")[1].splitlines()[2:]
    return {
        cells[0]: cells[1:] for line in table if (cells := [cell.strip() for cell in line.strip("| ").split(" | ")])
    }


def test_every_step_on_the_cpu(tmp_path, forking_python):
    """Two processes over gloo. A step that could not be tried reads skipped, with the reason."""
    as_in_the_shell()
    report = tmp_path / "report.md"
    done = verify(report, "--dry-run", PYTHON=forking_python)
    assert done.returncode == 0, done.stdout + done.stderr + report.with_suffix(".log").read_text()[-3000:]
    found, text = rows(report), report.read_text()
    assert {name: row[0] for name, row in found.items()} == dict.fromkeys(STEPS, "passed") | {"tests": "skipped"}
    assert re.fullmatch(r"\d+ x no CUDA device", found["tests"][2])
    assert re.fullmatch(r"32 packages, \d+ modules of nemo_mm_align", found["imports"][2])
    assert found["doctor"][2].startswith("2 ranks: 0 red")
    assert "gloo all-reduce over 2 ranks, values right" in text
    at, lost = map(int, re.search(r"sequence parallelism \| (\d+) \| (\d+) \| 0 \| 0 \|", text).groups())  # to the bit
    assert at in (4, 8, 12) and lost >= 2 and at + lost < 16
    assert f"| {at} |" in text and text.count("\n| 16 | ") == 1
    assert "Greedy decoding" in text and "Card: no GPU" in text and "Dry run on the CPU" in text
    assert "WANDB" not in text and SECRET not in text and str(tmp_path) not in text and str(REPOSITORY) not in text
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
    assert done.stdout.startswith(text)  # then where it is
    assert "######## benchmark" in report.with_suffix(".log").read_text()


def test_ctrl_c_leaves_a_report_of_what_was_done(tmp_path):
    report = tmp_path / "report.md"
    words = command(report, "--dry-run", "--steps", "tests,doctor,imports")
    process = subprocess.Popen(
        words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    log = report.with_suffix(".log")
    wait_until(lambda: log.is_file() and "######## doctor" in log.read_text(errors="replace"), lambda: ended(process))
    wait_until(lambda: len(descendants(str(process.pid))) > 2, lambda: ended(process))
    started = descendants(str(process.pid))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == INTERRUPTED, output
    assert {name: row[0] for name, row in rows(report).items()} == {
        "imports": "passed", "doctor": "**interrupted**", "tests": "not run", "training": "not run",
        "benchmark": "not run",
    }  # fmt: skip
    wait_until(lambda: not any(Path(f"/proc/{number}/stat").exists() and not zombie(number) for number in started))


def ended(process: subprocess.Popen[str]) -> str | None:
    return None if process.poll() is None else f"exit code {process.returncode}: {process.communicate()[0]}"


def zombie(number: str) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_steps_that_crash_cost_themselves_alone(tmp_path):
    """A torch that takes its process down, as a build for another driver may."""
    (tmp_path / "broken/torch").mkdir(parents=True)
    (tmp_path / "broken/torch/__init__.py").write_text("import os\nprint('no kernel image', flush=True)\nos.abort()\n")
    report, steps = tmp_path / "report.md", "imports,doctor,tests,training,benchmark"
    done = verify(report, "--dry-run", "--steps", steps, PYTHONPATH=f"{tmp_path / 'broken'}", PYTHONSAFEPATH="1")
    assert done.returncode == 1, done.stdout + done.stderr
    found = rows(report)
    assert {row[0] for row in found.values()} == {"**failed**"}, report.read_text()
    assert found["imports"][2] == "importing ended without a result: ended by signal 6"
    assert found["tests"][2] == "pytest wrote no report (ended by signal 6)"
    assert report.read_text().count("no kernel image") >= len(STEPS) - 1


ENGINE = """#!/usr/bin/env bash
# An engine that starts the image's command on this machine: what verify.sh hands to it is what is looked at.
echo "$*" >> "$CALLS"
case $1 in
    info) exit 0 ;;
    build)
        if [ -n "${BUILD_HANGS:-}" ]; then echo "STEP 1"; sleep 600; fi
        echo "STEP 1: https://user:password@registry.example/simple $HOME/x of $(hostname)"
        exit "${BUILD_CODE:-0}" ;;
    run)
        if [ -n "${RUN_CODE:-}" ]; then exit "$RUN_CODE"; fi
        for word in "$@"; do
            case $word in --volume=*:/report) place=${word#--volume=}; place=${place%:/report} ;; esac
            if [ "$word" = python ]; then take=yes; fi
            if [ -n "${take:-}" ]; then words+=("${word/#\\/report/$place}"); fi
        done
        words[0]=$PYTHON
        exec "${words[@]}" ;;
esac
"""


@pytest.fixture
def engine(tmp_path):
    folder = tmp_path / "engine"
    folder.mkdir()
    for name in ("docker", "podman"):
        (folder / name).write_text(ENGINE)
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}


def test_an_engine_builds_and_runs_the_image(tmp_path, engine):
    report = tmp_path / "out/report.md"
    report.parent.mkdir()
    done = verify(report, "--dry-run", "--engine", "docker", "--steps", "build,tests", **engine)
    assert done.returncode == 0, done.stdout + done.stderr
    built, ran = [line for line in Path(engine["CALLS"]).read_text().splitlines() if not line.startswith("info")]
    assert built.startswith(f"build -f {REPOSITORY}/containers/Dockerfile -t nemo_mm_align:verify --build-arg COMMIT=")
    assert f"--volume={REPOSITORY}/tests:/opt/nemo_mm_align/tests" in ran and "--gpus" not in ran
    assert f"--user {os.getuid()}:{os.getgid()}" in ran and " nemo_mm_align:verify python -m" in ran
    found = rows(report)
    assert found["build"][0] == "passed" and found["build"][2].startswith("docker, from nemo:26.02, in ")
    assert found["tests"][0] == "skipped"


def test_an_image_that_is_built_is_taken_with_its_gpus(tmp_path, engine):
    smi = tmp_path / "engine/nvidia-smi"
    smi.write_text("#!/bin/sh\n[ $1 = -L ] && echo 'GPU 0: one'\n")  # lists a GPU, but tells nothing of it
    smi.chmod(0o755)
    done = verify(tmp_path / "r.md", "--engine", "podman", "--gpus", "3", IMAGE="mine:1", **engine)
    assert done.returncode == 2 and done.stderr.startswith("error: no GPU is visible")  # said inside, without a card
    assert done.stderr.count("\n") == 1 and not (tmp_path / "r.md").exists()
    (ran,) = Path(engine["CALLS"]).read_text().splitlines()
    assert ran.startswith("run --rm --device nvidia.com/gpu=all") and " mine:1 python -m nemo_mm_align.verify" in ran
    assert "--gpus 3" in ran and "--user" not in ran


def test_without_build_and_image_there_is_nothing_to_start(tmp_path, engine):
    done = verify(tmp_path / "r.md", "--dry-run", "--engine", "docker", "--skip", "build", **engine)
    assert done.returncode == 2 and "no image is named: IMAGE=NAME" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "r.md").exists()


def test_an_image_that_does_not_start_is_named(tmp_path, engine):
    done = verify(tmp_path / "r.md", "--dry-run", "--engine", "docker", IMAGE="old:1", RUN_CODE="125", **engine)
    assert done.returncode == 1 and not (tmp_path / "r.md").exists()
    assert "no report: old:1 does not start, or was built from a commit without nemo_mm_align.verify" in done.stderr


def test_a_build_that_fails_leaves_a_report(tmp_path, engine):
    report = tmp_path / "report.md"
    done = verify(report, "--dry-run", "--engine", "docker", BUILD_CODE="7", **engine)
    assert done.returncode == 1 and "the build failed; the report is" in done.stderr
    found, text = rows(report), report.read_text()
    assert found["build"][0] == "**failed**" and {found[name][0] for name in STEPS} == {"not run"}
    assert "STEP 1: https://*** " not in text and "STEP 1: https://***/simple .../x of HOST" in text


def test_ctrl_c_during_the_build_leaves_a_report(tmp_path, engine):
    report = tmp_path / "report.md"
    process = subprocess.Popen(
        command(report, "--dry-run", "--engine", "docker"), env=environment(BUILD_HANGS="yes", **engine),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in the background
    )  # fmt: skip
    log = report.with_suffix(".log")
    wait_until(lambda: log.is_file() and "STEP 1" in log.read_text(), lambda: ended(process))
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == INTERRUPTED
    assert rows(report)["build"][0] == "**interrupted**" and "    STEP 1" in report.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--step", "tests"], "unknown option --step"),
        (["--steps", "tests,trianing"], "there is no step trianing; there are build,imports"),
        (["--dry-run", "--steps", "tests", "--skip", "tests"], "no step is left to run"),
        (["--budget", "soon"], "--budget soon: a number of seconds"),
        (["--dry-run", "--gpus"], "--gpus needs a value"),
        (["--here"], "no GPU is visible (nvidia-smi); --dry-run tries the steps on the CPU"),
        (["--engine", "podman"], "podman is not installed"),
        (["--engine", "kubernetes"], "docker, podman or enroot"),
        (["--dry-run", "--out", "/proc/nowhere/report.md"], "the report cannot be written there"),
    ],
)
def test_a_mistake_ends_with_one_sentence(words, message, tmp_path):
    done = subprocess.run(command(tmp_path / "r.md", *words), env=bare(tmp_path), capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "r.md").exists()


def test_without_an_engine_the_ways_out_are_named(tmp_path):
    done = subprocess.run(command(tmp_path / "r.md"), env=bare(tmp_path), capture_output=True, text=True)
    assert done.returncode == 2
    assert "neither docker nor podman nor enroot is installed; inside the image" in done.stderr


def bare(folder: Path) -> dict[str, str]:
    """An environment of a few programs, without engines and nvidia-smi."""
    programs = folder / "programs"
    programs.mkdir()
    for name in ("bash", "dirname", "basename", "git", "mkdir", "cat", "grep"):
        (programs / name).symlink_to(shutil.which(name))
    return {"PATH": str(programs)}


def test_help_lists_every_option():
    done = subprocess.run(["bash", "containers/verify.sh", "--help"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0
    for option in ("--out", "--steps", "--skip", "--budget", "--gpus", "--engine", "--here", "--dry-run", "IMAGE="):
        assert option in done.stdout
    for step in ("build", *STEPS):
        assert step in done.stdout
