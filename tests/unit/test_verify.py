"""Verdicts, tables and redaction of nemo_mm_align.verify; the steps as a whole run in tests/e2e/test_verify.py."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import ROOT
from nemo_mm_align.verify import benchmark, doctor, imports, programs, redact, report, run, tests, training
from nemo_mm_align.verify.options import from_words
from nemo_mm_align.verify.outcome import Outcome, Verdict
from nemo_mm_align.verify.plan import NAMES, STEPS
from nemo_mm_align.verify.training import Resumed
from tests.waiting import wait_until

FACTS = {
    "run": "2031-02-03",
    "command": "x",
    "card": "NVIDIA H200",
    "driver": "580.1",
    "python": "3.12",
    "versions": {},
}


def suite(*cases: str, **numbers: int) -> str:
    counted = " ".join(f'{name}="{numbers.get(name, 0)}"' for name in ("tests", "failures", "errors", "skipped"))
    return f'<testsuites><testsuite {counted} time="1">{"".join(cases)}</testsuite></testsuites>'


GOOD = '<testcase name="good"/>'
WHOLE_MODULE = (
    "<testcase name=\"m\"><skipped message=\"collection skipped\">('t.py', 9, 'Skipped: no CUDA device')"
    "</skipped></testcase>"
)
SKIPPED = '<testcase name="two"><skipped message="needs two GPUs">t.py:1: needs two GPUs</skipped></testcase>'
FAILED = '<testcase name="bad"><failure message="assert 1 == 2">no</failure></testcase>'


@pytest.mark.parametrize(
    ("text", "code", "verdict", "found"),
    [
        (suite(GOOD, tests=1), 0, Verdict.PASSED, "1 passed, 0 failed, 0 skipped"),
        (suite(GOOD, SKIPPED, tests=2, skipped=1), 0, Verdict.IN_PART, "1 passed, 0 failed, 1 skipped: 1 x needs two GPUs"),
        (suite(WHOLE_MODULE, WHOLE_MODULE, tests=2, skipped=2), 5, Verdict.SKIPPED, "2 x no CUDA device"),
        (suite(SKIPPED, tests=1, skipped=1), 0, Verdict.SKIPPED, "1 x needs two GPUs"),
        (suite(tests=0), 5, Verdict.SKIPPED, "pytest found no test"),
        (suite(GOOD, FAILED, tests=2, failures=1), 1, Verdict.FAILED, "1 passed, 1 failed, 0 skipped"),
        (suite(GOOD, tests=1), -11, Verdict.FAILED, "1 passed, 0 failed, 0 skipped"),
        (suite(GOOD, tests=1), None, Verdict.FAILED, "1 passed, 0 failed, 0 skipped"),
        ("<testsuites><tests", 1, Verdict.FAILED, "pytest wrote no report"),
    ],
)  # fmt: skip
def test_tests_that_were_all_skipped_are_not_passed(text, code, verdict, found, tmp_path):
    path = tmp_path / "tests.xml"
    path.write_text(text)
    outcome = tests.judge(path, code)
    assert (outcome.verdict, outcome.found) == (verdict, found)
    assert ("bad: assert 1 == 2" in outcome.figures) == ("failures" in text and "bad" in text)


WHOLE = [0.69, 0.6, 0.5, 0.4, 0.3]


@pytest.mark.parametrize(
    ("resumed", "one_gpu", "verdict"),
    [
        (WHOLE, False, Verdict.PASSED),
        ([*WHOLE[:3], 0.409, 0.3], False, Verdict.PASSED),
        ([*WHOLE[:3], 0.4, 0.311], False, Verdict.FAILED),
        ([*WHOLE[:3], 0.4, math.nan], False, Verdict.FAILED),
        (WHOLE, True, Verdict.IN_PART),
    ],
)
def test_losses_after_a_resume_are_those_of_the_undisturbed_run(resumed, one_gpu, verdict):
    outcome = training.judge({"TP2": Resumed(WHOLE, resumed, at=2, lost=1)}, {}, 0.01, one_gpu)
    assert outcome.verdict is verdict
    assert outcome.found.startswith("TP2: 1 steps beyond step 2 lost by the kill, then losses within ")
    assert ("more than 0.01" in outcome.found) == (verdict is Verdict.FAILED)
    assert "| TP2 | 2 | 1 | 0 |" in outcome.figures
    assert f"| 5 | 0.300000 | {resumed[4]:.6f} |" in outcome.figures


def test_a_layout_that_goes_wrong_costs_itself_alone():
    good, bad = Resumed(WHOLE, WHOLE, at=2, lost=1), training.Fault("an undisturbed run: exit code 1", ["why"])
    outcome = training.judge({"TP2": good}, {"PP2": bad}, 0.01)
    assert (outcome.verdict, outcome.lines) == (Verdict.FAILED, ("why",))
    assert outcome.found.endswith("; PP2: an undisturbed run: exit code 1") and "| TP2 | 2 |" in outcome.figures


def test_losses_before_the_checkpoint_do_not_count():
    run = Resumed(WHOLE, [0.7, 0.6, *WHOLE[2:]], at=2, lost=3)
    assert (run.before, run.after) == (pytest.approx(0.01), 0.0)


def test_another_number_of_losses_is_no_comparison():
    with pytest.raises(ValueError, match="longer"):
        assert Resumed(WHOLE, [*WHOLE, 0.2], at=2, lost=1).after


def findings(*levels: str) -> list[dict[str, str]]:
    return [{"level": level, "title": "a|b", "detail": "c", "remedy": "d"} for level in levels]


@pytest.mark.parametrize(
    ("levels", "code", "gpus", "verdict"),
    [
        (("green", "amber"), 0, 2, Verdict.PASSED),
        (("green", "red"), 2, 2, Verdict.FAILED),
        (("green",), 0, 1, Verdict.IN_PART),
    ],
)
def test_a_red_doctor_fails(levels, code, gpus, verdict):
    outcome = doctor.judge({"ranks": max(gpus, 1), "exit_code": code, "findings": findings(*levels)}, gpus)
    assert outcome.verdict is verdict
    assert r"| green | a\|b | c | d |" in outcome.figures


STEP = {"step": "train", "kind": "step", "name": "DPO"} | FACTS
CASE = {"step": "train", "name": "one"} | FACTS


@pytest.mark.parametrize(
    ("lines", "verdict", "found"),
    [
        ([CASE, STEP | {"exit_code": 0}], Verdict.PASSED, "1 cases measured, 0 not"),
        ([CASE, CASE | {"skipped": "no trl"}, STEP | {"exit_code": 0}], Verdict.PASSED, "1 cases measured, 1 not"),
        ([CASE, CASE | {"error": "out of memory"}], Verdict.IN_PART, "1 cases measured, 1 not"),
        ([CASE, STEP | {"skipped": "1 s of the budget were left"}], Verdict.IN_PART, "1 cases measured, 0 not"),
        ([CASE, CASE | {"error": "ValueError: x"}], Verdict.FAILED, "1 cases measured, 1 not; failed: train: one"),
        ([CASE, STEP | {"exit_code": -9}], Verdict.FAILED, "1 cases measured, 0 not; failed: train: DPO"),
        ([CASE | {"skipped": "no GPU"}], Verdict.SKIPPED, "nothing was measured"),
        ([], Verdict.SKIPPED, "nothing was measured"),
    ],
)
def test_a_benchmark_with_errors_fails(lines, verdict, found):
    outcome = benchmark.judge(lines)
    assert (outcome.verdict, outcome.found) == (verdict, found)


def test_a_package_that_does_not_import_fails():
    package = {"name": "torch", "version": "2.10", "pinned": "2.13.0", "error": None}
    found = {"packages": [package], "modules": {"imported": 3, "failed": {}}, "kernels": "apex  not installed"}
    outcome = imports.judge(found)
    assert (outcome.verdict, outcome.found) == (Verdict.PASSED, "1 packages, 3 modules of nemo_mm_align")
    assert "| torch | 2.10 | 2.13.0 |  |" in outcome.figures  # the image's own version is not a fault
    broken = imports.judge(found | {"packages": [package | {"error": "OSError: libc10.so"}]})
    assert (broken.verdict, broken.found) == (Verdict.FAILED, "torch of 1 packages, 3 modules of nemo_mm_align")
    module = imports.judge(found | {"modules": {"imported": 2, "failed": {"nemo_mm_align.x": "ImportError: y"}}})
    assert module.verdict is Verdict.FAILED and "- `nemo_mm_align.x`: ImportError: y" in module.figures


def test_what_is_missing_or_of_a_version_that_does_not_run_is_found(monkeypatch):
    assert imports._package("no-such-package") == {"version": None, "error": "not installed"}
    monkeypatch.setattr(imports, "ENGINE_RANGES", {"packaging": "<1"})
    assert imports._package("packaging")["error"] == "<1 is needed"
    assert imports._package("pydantic")["error"] is None


def test_a_report_holds_no_names_keys_and_paths(monkeypatch):
    monkeypatch.setenv("NGC_API_KEY", "abcdefgh12345678")
    monkeypatch.setattr(redact.socket, "gethostname", lambda: "node17.cluster.example")
    monkeypatch.setattr(redact, "_addresses", lambda: {"10.1.2.3"})
    monkeypatch.setattr(redact, "_user", lambda: "mmeier")
    shown = redact.redact(
        f"{ROOT}/nemo_mm_align/model/llava.py:3 in /home/mmeier/data/x.json, ~/secret/y, "
        "/usr/lib/python3.12/site-packages/torch/nn/functional.py, http://u:p@proxy.example:8080/simple, "
        "key abcdefgh12345678 nvapi-aaaaaaaaaaaaaaaaaaaaaa of mmeier on node17 (10.1.2.3), /dev/shm, 1/2, a/b cuDNN 9.19.0.56"
    )
    assert shown == (
        "nemo_mm_align/model/llava.py:3 in .../x.json, .../y, torch/nn/functional.py, http://***/simple, "
        "key *** *** of USER on HOST (HOST), /dev/shm, 1/2, a/b cuDNN 9.19.0.56"
    )


def test_the_report_begins_with_verdicts_and_ends_with_last_lines(tmp_path):
    made = report.Report(tmp_path / "r.md", FACTS, "1a2b3c4", "2 GPUs.", "docker, in 9 s")
    made.add(STEPS[0], Outcome(Verdict.PASSED, "a | b", "figures"), 1.4)
    assert made.good
    made.add(STEPS[1], Outcome(Verdict.FAILED, "red", lines=("last ``` line",)), 2.0)
    made.add(STEPS[2], Outcome(Verdict.SKIPPED, "why", lines=("not shown",)), 0.0)
    text = (tmp_path / "r.md").read_text()
    assert text.splitlines()[2:10] == [
        "| step | verdict | seconds | found |",
        "| --- | --- | --- | --- |",
        "| build | passed |  | docker, in 9 s |",
        r"| imports | passed | 1 | a \| b |",
        "| doctor | **failed** | 2 | red |",
        "| tests | skipped | 0 | why |",
        "| training | not run |  |  |",
        "| benchmark | not run |  |  |",
    ]
    assert "Card: NVIDIA H200; driver 580.1" in text and "Commit: 1a2b3c4" in text
    assert "```\nlast ''' line\n```" in text and "not shown" not in text
    assert not made.good


def test_words_choose_steps_in_the_plans_order():
    assert from_words([]).steps == NAMES
    assert from_words(["--steps", "training,imports"]).steps == ("imports", "training")
    assert from_words(["--skip", "benchmark,tests"]).steps == ("imports", "doctor", "training")
    found = from_words(["--out", "a/b.md", "--budget", "60", "--gpus", "2", "--dry-run"])
    assert (found.log, found.budget_s, found.gpus, found.dry_run) == (Path("a/b.log"), 60.0, 2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "docter"], "no step docter. Did you mean doctor"),
        (["--steps", "tests", "--skip", "tests"], "no step is left"),
        (["--budget", "nan"], "above 0"),
        (["--budget", "soon"], "invalid float value: 'soon'"),
        (["--gpus", "0"], "at least 1"),
        (["--step", "tests"], "unrecognized arguments"),
        (["--out", "a.log"], "the log of all output is called so"),
    ],
)
def test_a_mistake_is_one_sentence(words, message):
    with pytest.raises(UserError, match=message):
        from_words(words)


def test_without_a_gpu_there_is_nothing_to_verify(tmp_path, monkeypatch):
    monkeypatch.setattr(run.hardware, "query_gpus", lambda: None)
    with pytest.raises(UserError, match="no GPU is visible"):
        run.run(from_words(["--out", str(tmp_path / "r.md")]), "x")
    monkeypatch.setattr(run.hardware, "query_gpus", lambda: [1, 2])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(UserError, match="--gpus 4: 2 visible"):
        run.run(from_words(["--out", str(tmp_path / "r.md"), "--gpus", "4"]), "x")


def test_the_gpus_that_take_part(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    assert run._variables(2)["CUDA_VISIBLE_DEVICES"] == "4,5"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert run._variables(2)["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert run._variables(0)["CUDA_VISIBLE_DEVICES"] == ""


def test_a_spent_budget_is_said_and_a_fault_of_ours_is_a_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr(tests, "perform", lambda context: 1 // 0)
    made = report.Report(tmp_path / "r.md", FACTS, "c", "")
    options = from_words(["--out", str(tmp_path / "r.md"), "--steps", "tests"])
    run._carry_out(STEPS[2], options, 0, time.monotonic() + 100, tmp_path, made)
    run._carry_out(STEPS[3], options, 0, time.monotonic() + 5, tmp_path, made)
    assert made.outcomes["tests"].found == "ZeroDivisionError: integer division or modulo by zero"
    assert made.outcomes["training"].verdict is Verdict.SKIPPED
    assert (
        "s of the budget were left" in made.outcomes["training"].found and "1 // 0" in (tmp_path / "r.md").read_text()
    )


def test_a_program_that_hangs_is_killed_with_what_it_started(tmp_path):
    start = "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    log = tmp_path / "log"
    ended = programs.run(["-c", start], 100.0, log, {}, until=lambda: log.read_text().endswith("\n"))
    assert ended.watched and ended.code is None
    (child,) = ended.lines
    wait_until(lambda: has_ended(child))
    ended = programs.run(["-c", "import time; time.sleep(600)"], 1.0, log, {})
    assert (ended.code, ended.how, ended.lines, ended.watched) == (None, "not finished within its limit", (), False)


def has_ended(process: str) -> bool:
    """Gone, or a zombie whose parent has not looked yet."""
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_last_lines_are_those_of_the_program_and_of_a_bar_what_stood_last(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"before\n")
    ended = programs.run(
        ["-c", "print('10%\\r20%\\rdone'); print(); print('x' * 999); raise SystemExit(3)"], 60, log, {}
    )
    assert (ended.code, ended.how, ended.lines) == (3, "exit code 3", ("done", "x" * 400))
    assert programs.run(["-c", "import os; os.kill(os.getpid(), 9)"], 60, log, {}).how == "ended by signal 9"


def test_what_judges_imports_no_torch():
    modules = ["__main__", *NAMES]
    code = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module('nemo_mm_align.verify.' + name)\n"
        "print(sorted({'torch', 'megatron', 'transformers', 'omegaconf', 'hydra', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout == "[]\n", done.stderr
