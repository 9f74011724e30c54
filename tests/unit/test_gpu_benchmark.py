"""The GPU benchmark's plan, limits, records and tables; its steps as a whole run in tests/e2e/test_gpu_benchmark.py."""

import importlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nemo_mm_align.benchmarks.gpu import correctness, facts, junit, plan, records, run, shapes, table, twins
from nemo_mm_align.benchmarks.gpu.options import Options, from_values, from_words
from nemo_mm_align.benchmarks.gpu.profiling import summary
from nemo_mm_align.benchmarks.gpu.records import Recorder, Skipped
from nemo_mm_align.benchmarks.gpu.shapes import Rows
from nemo_mm_align.capacity.gpus import data_sheet_rate
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.config import EngineConfig
from tests.waiting import wait_until

FACTS = {
    "run": "2031-02-03T04:05:06+00:00",
    "command": "python -m nemo_mm_align.benchmarks.gpu",
    "card": "NVIDIA H200",
    "driver": "580.1",
    "card_memory": "143771 MiB",
    "python": "3.12.3",
    "versions": {"torch": "2.11.0", "megatron-core": "0.16.1"},
}


def test_words_and_values_mean_the_same():
    expected = Options(("train", "decode"), 90.0, "13b", Path("x"))
    assert from_words(["steps=train,decode", "budget_s=90", "size=13b", "out=x"]) == expected
    assert from_words(["steps=[train, decode]", "budget_s=90", "size=13b", "out=x"]) == expected
    assert from_values({"steps": ["train", "decode"], "budget_s": 90, "size": "13b", "out": "x"}) == expected
    assert from_words([]) == Options() == from_values({"steps": None})


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("size=70b", "size='70b': choose from 7b, 13b, toy"),
        ("budget_s=soon", "budget_s='soon': must be a number of seconds"),
        ("budget_s=0", "above 0"),
        ("budget_s=nan", "above 0"),
        ("step=train", "Did you mean steps"),
        ("train", "cannot read 'train': write KEY=VALUE"),
        ("steps=trian", "there is no trian. Did you mean train"),
        ("steps=", "steps: none is named"),
    ],
)
def test_a_mistake_ends_with_one_sentence(word, message, tmp_path):
    command = [sys.executable, "-m", "nemo_mm_align.benchmarks.gpu", f"out={tmp_path / 'out'}", word]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2 and message in found.stderr
    assert found.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


def test_steps_stand_in_the_plans_order_and_fit_the_size():
    assert [step.name for step in plan.choose(["decode", "tests"], "7b")] == ["tests", "decode"]
    everything = [step.name for step in plan.choose(None, "7b")]
    assert everything == [step.name for step in plan.STEPS] and everything[0] == "tests"
    assert [name for name in everything if name not in [step.name for step in plan.choose(None, "13b")]] == [
        "train_13b"
    ]
    with pytest.raises(UserError, match="there is no fp9. Did you mean fp8"):
        plan.choose(["fp9"], "7b")
    for step in plan.STEPS:
        assert callable(importlib.import_module(f"nemo_mm_align.benchmarks.gpu.{step.module}").measure)


def test_a_step_gets_its_limit_or_what_is_left():
    assert plan.granted(100, 500) == 100
    assert plan.granted(100, 40) == 40
    assert plan.granted(100, plan.LEAST_S) == plan.LEAST_S
    assert plan.granted(100, plan.LEAST_S - 0.1) is None


def test_a_spent_budget_is_recorded_and_no_process_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("a process was started"))
    monkeypatch.setattr(facts, "describe", lambda command: FACTS)
    text = run.run(Options(("train", "decode"), 1.0, "7b", tmp_path), "python x")
    assert [line["skipped"] for line in records.read(tmp_path / records.FILE, FACTS["run"])] == [
        "1 s of the budget were left"
    ] * 2
    assert "| decode | greedy answers of 1, 16 and 64 rows | skipped | 1 s of the budget were left |" in text
    assert (tmp_path / run.TABLE).read_text() == text


def test_a_step_that_hangs_is_killed_with_what_it_started_and_costs_only_itself(tmp_path, monkeypatch):
    module = tmp_path / "child.py"
    module.write_text(
        "import json, subprocess, sys, time\n"
        "if json.loads(sys.argv[1])['step'] == 'train':\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        "    print('pid', child.pid, flush=True)\n"
        "    time.sleep(600)\n"
        "sys.exit(3)\n"
    )
    started = subprocess.Popen

    def popen(command, **kwargs):
        return started([sys.executable, str(module), command[-1]], **kwargs)

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(plan, "granted", lambda limit, left: 4.0)
    out = tmp_path / "out"
    text = run.run(Options(("train", "decode"), 100.0, "7b", out), "python x")
    lines = [json.loads(line) for line in (out / records.FILE).read_text().splitlines()]
    assert lines[0]["error"].startswith("killed after ") and "exit_code" not in lines[0]
    assert lines[1]["exit_code"] == 3 and lines[1]["limit_s"] == 4.0
    log = (out / run.LOG).read_text()
    assert log.startswith("######## train\n") and "######## decode\n" in log
    wait_until(lambda: has_ended(int(log.split("pid ")[1].split()[0])))
    assert "| train | " in text and "failed | killed after" in text


def test_processes_of_steps_get_the_settings_that_matter(monkeypatch):
    monkeypatch.delenv("CUDA_DEVICE_MAX_CONNECTIONS", raising=False)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    monkeypatch.setenv("PYTHONPATH", "/somewhere/site")
    found = run.environment()
    assert found["CUDA_DEVICE_MAX_CONNECTIONS"] == "1" and found["HF_HUB_OFFLINE"] == "1"
    assert found["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:64"  # the user's own stays
    assert found["PYTHONPATH"] == f"{run.ROOT}:/somewhere/site"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    assert run.environment()["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_torchs_cuda_libraries_are_found_beside_it(tmp_path, monkeypatch):
    for folder in ("torch", "nvidia/cu13/lib", "nvidia/cudnn/lib", "nvidia/cu13/include"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").touch()
    monkeypatch.setattr(
        run.importlib.util,
        "find_spec",
        lambda name: importlib.machinery.ModuleSpec(name, None, origin=str(tmp_path / "torch" / "__init__.py")),
    )
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    found = run.environment()
    assert found["LD_LIBRARY_PATH"] == f"{tmp_path}/nvidia/cu13/lib:{tmp_path}/nvidia/cudnn/lib:/opt/lib"


def raising(error):
    def measure():
        raise error

    return measure


def test_a_case_that_fails_is_recorded_and_the_next_one_measured(tmp_path):
    path = tmp_path / "results.jsonl"
    recorder = Recorder(path, FACTS | {"step": "train"})
    assert recorder.case("a", lambda: {"step_s": 1.5})
    assert not recorder.case("b", raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")))
    assert not recorder.case("c", raising(Skipped("needs a GPU")))
    assert not recorder.case("d", raising(RuntimeError("x" * 1000)))
    with path.open("a") as file:
        file.write('{"run": "2031')  # torn by a kill
    a, b, c, d = records.read(path, FACTS["run"])
    assert a == FACTS | {"step": "train", "name": "a", "step_s": 1.5}
    assert b["error"] == "out of memory" and c["skipped"] == "needs a GPU" and "error" not in c
    assert d["error"] == "RuntimeError: " + "x" * 300
    assert records.read(path, "another run") == []


def test_a_case_is_not_begun_where_cases_take_longer_than_what_is_left(tmp_path):
    recorder = Recorder(tmp_path / "results.jsonl", FACTS, time.monotonic() + 1000)
    recorder._seconds = [5.0, 2000.0, 3000.0]
    assert not recorder.case("late", lambda: pytest.fail("was measured"))
    recorder._seconds = [5.0, 5.0, 2000.0]  # the first one of a process is slow: what is usual counts
    assert recorder.case("in time", lambda: {})
    late, in_time = records.read(tmp_path / "results.jsonl", FACTS["run"])
    assert "s of the step were left, a case takes 2000 s" in late["skipped"] and "skipped" not in in_time


def training_line(name, **values):
    line = {"step": "train", "name": name, "rows": [2, 1017], "step_s": 0.5, "samples_per_s": 8.0, "tokens_per_s": 8136}
    line |= {"tflops": 222.5, "mfu": 0.225, "peak_gib": 33.2, "estimated_gib": 33.0, "samples_per_s_recomputed": 6.0}
    return FACTS | line | values


def test_table_of_a_run():
    kernels = {
        "gpu_busy": 0.4,
        "launches": 1250,
        "gpu_seconds": {"product": 0.1},
        "top_kernels": [["gemm<1>", 53.6, 384]],
    }
    lines = [
        FACTS | {"step": "ceilings", "name": "bf16 product", "tflops": 890.0, "data_sheet_tflops": 989.0},
        training_line("7b bf16 dpo LoRA, 2 pairs, shared prefix", **kernels),
        training_line("7b bf16 dpo LoRA, 2 pairs, shared prefix + cudnn", samples_per_s=5.0),
        FACTS | {"step": "peer", "name": "7b transformers + PEFT, 2 pairs, cached reference", "pairs": 2, "cached": True,
                 "step_s": 1.0, "samples_per_s": 4.0, "tokens_per_s": 6464, "peak_gib": 50.0},
        FACTS | {"step": "methods", "name": "7b bf16 sft full", "skipped": "130.1 GiB estimated, the card has 79.0 GiB"},
        FACTS | {"step": "train", "kind": "step", "name": "DPO", "exit_code": 0, "seconds": 80.2, "limit_s": 150.0},
    ]  # fmt: skip
    text = table.markdown(lines)
    assert text.startswith(
        "Card: NVIDIA H200, card memory 143771 MiB; driver 580.1.  \n"
        "Versions: Python 3.12.3, torch 2.11.0, megatron-core 0.16.1.  \n"
        "Begun: 2031-02-03T04:05:06+00:00.  \n"
        "Command: `python -m nemo_mm_align.benchmarks.gpu`\n"
    )
    for row in (
        "| bf16 product | 890 TFLOP/s | 989 |",
        "| 7b bf16 dpo LoRA, 2 pairs, shared prefix | 2x1017 | 0.500 | 8.00 | 6.00 | 8,136 | 22.5% (25.0%) "
        "| 33.2 / 33.0 | 40% |",
        "| 7b transformers + PEFT, 2 pairs, cached reference | 1.000 | 4.00 | 6,464 | 50.0 | 8.00 | 2.00x |",
        "| 7b bf16 dpo LoRA, 2 pairs, shared prefix | 40% | 1,250 | 100 |",
        "| `gemm<1>` | 53.6 | 384 |",
        "| methods | 7b bf16 sft full | skipped | 130.1 GiB estimated, the card has 79.0 GiB |",
        "| train | DPO | 0 | 80 of 150 |",
    ):
        assert row in text.splitlines()
    assert "with LoRA 4 N per token" in text
    assert table.markdown([]) == "Nothing was measured.\n"


def test_table_without_ceilings_and_without_a_known_card():
    text = table.markdown([training_line("x", mfu=None, peak_gib=None, samples_per_s_recomputed=None)])
    assert "| x | 2x1017 | 0.500 | 8.00 | – | 8,136 | – (–) | – / 33.0 | – |" in text.splitlines()


def test_operations_are_four_per_weight_and_token_with_adapters_and_six_without():
    config, engine = shapes.model_config("7b"), EngineConfig("bf16")
    arguments = ("7b", config, engine)
    lora, full = (
        shapes.job_of(*arguments, adapters, "sft", Rows(2), 1) for adapters in (shapes.lora_config("7b"), None)
    )
    tokens = 2 * (576 + 40 + 200)
    weights = config.language.linear_parameters * 32
    adapters = 6 * tokens * lora.lora.num_parameters(config.language)
    output = 2 * 2 * 201 * 4096 * 32064
    assert shapes.flops("7b", full) - shapes.flops("7b", lora) == pytest.approx(
        2 * tokens * weights + output - adapters, rel=1e-9
    )


@pytest.mark.parametrize(
    ("method", "rows", "shape"),
    [
        ("dpo", Rows(2), (2, 1017)),
        ("dpo", Rows(2, shared=False), (4, 816)),
        ("dpo", Rows(1, multiple=64), (1, 1024)),
        ("sft", Rows(3), (3, 816)),
        ("steerlm", Rows(3), (3, 876)),
    ],
)
def test_rows_are_those_that_the_estimates_are_for(method, rows, shape):
    job = shapes.job_of("7b", shapes.model_config("7b"), EngineConfig("bf16"), None, method, rows, 2)
    batch = shapes.batch_for("7b", job, rows.multiple)
    assert tuple(batch.input_ids_BS.shape) == shape
    if rows.multiple is None:
        assert (job.rows, job.row_length) == shape
        assert batch.num_answer_tokens == job.labelled
        assert bool((batch.segment_ids_BS >= 0).all())  # nothing is padding
    assert shapes.batch_for("7b", job, rows.multiple, extra=3).input_ids_BS.shape[1] == shape[1] + 3


def test_twins_get_the_same_rows():
    config, lora = shapes.model_config("7b"), shapes.lora_config("7b")
    bf16, fp8 = (
        shapes.batch_for("7b", shapes.job_of("7b", config, EngineConfig(name), lora, "dpo", twins._ROWS, 2), 16)
        for name in ("bf16", "fp8_tensorwise")
    )
    assert bf16.input_ids_BS.equal(fp8.input_ids_BS) and bf16.labels_BS.equal(fp8.labels_BS)


def test_too_large_a_job_is_skipped_with_both_numbers(monkeypatch):
    job = shapes.job_of("7b", shapes.model_config("7b"), EngineConfig("bf16"), None, "sft", Rows(4), 2)
    monkeypatch.setattr(shapes.clock, "card_gib", lambda: 79.0)
    with pytest.raises(Skipped, match=r"1[0-9]{2}\.\d GiB estimated, the card has 79.0 GiB"):
        shapes.check_memory(job)
    shapes.check_memory(replace(job, lora=shapes.lora_config("7b")))
    needed = shapes.stage_memory(job, 0).peak / 2**30
    for gib, fits in ((needed / 1.04, True), (needed / 1.06, False), (None, True)):  # a little too large is tried
        monkeypatch.setattr(shapes.clock, "card_gib", lambda gib=gib: gib)
        if fits:
            shapes.check_memory(job)
        else:
            with pytest.raises(Skipped):
                shapes.check_memory(job)


def test_cosine_is_of_the_whole_gradient_and_blind_to_scale():
    ours = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    assert twins.cosine(ours, {name: 7 * value for name, value in ours.items()}) == pytest.approx(1.0)
    assert twins.cosine(ours, {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[-4.0]])}) == pytest.approx(-7 / 25)
    with pytest.raises(ValueError, match="same parameters"):
        twins.cosine(ours, {"a": ours["a"]})
    nothing = {name: torch.zeros_like(value) for name, value in ours.items()}
    assert twins.verdict(0.0, twins.cosine(ours, nothing)).startswith("not a number")


@pytest.mark.parametrize(
    ("losses", "similarity", "text"),
    [
        ([2.0, 1.005], 0.995, "trains as bf16"),
        ([2.0, 1.02], 0.995, "trains near bf16"),
        ([2.0, 1.0], 0.95, "trains near bf16"),
        ([2.2, 1.0], 0.999, "far from bf16 on random weights: compare a run of yours"),
        ([2.0, 1.0], 0.5, "far from bf16 on random weights: compare a run of yours"),
        ([float("nan"), 1.0], 0.999, "not a number: do not train with it"),
        ([2.0, float("nan")], 0.999, "not a number: do not train with it"),
    ],
)
def test_verdict(losses, similarity, text):
    assert twins.verdict(twins.loss_distance(losses, [2.0, 1.0]), similarity) == text


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_data_sheet_by_the_drivers_name(name, flops):
    assert data_sheet_rate(name) == flops


def test_profile_sums_by_kind_of_kernel():
    kernels = [
        ("fmha_cutlassB_bf16", 0.2, 64),
        ("nvjet_sm90_tst", 0.1, 384),
        ("Memcpy DtoH", 0.05, 2),
        ("elementwise", 0.05, 9),
    ]
    found = summary(kernels, 0.8)
    assert found["gpu_busy"] == 0.5 and found["launches"] == 459
    assert found["gpu_seconds"] == {"attention": 0.2, "product": 0.1, "copy": 0.05, "other": 0.05}
    assert found["top_kernels"][0] == ["fmha_cutlassB_bf16", 200.0, 64]


def test_outcome_of_tests_is_read_from_their_report(tmp_path):
    report = tmp_path / "tests.xml"
    assert junit.counts(report) == {"error": "pytest wrote no report, see log.txt"}
    report.write_text(
        '<testsuites><testsuite tests="3" failures="1" errors="0" skipped="1" time="4.5"><testcase name="good"/>'
        '<testcase name="bad"><failure message="assert 1 == 2&#10;more">text</failure></testcase>'
        '<testcase name="left"><skipped message="no"/></testcase></testsuite></testsuites>'
    )
    found = junit.counts(report)
    assert (found["tests"], found["failures"], found["skipped"], found["seconds"]) == (3, 1, 1, 4.5)
    assert found["failed"] == ["bad: assert 1 == 2"]
    text = table.markdown([FACTS | {"step": "tests", "name": "tests_bf16", **found}])
    assert "| tests_bf16 | 3 | 1 | 0 | 1 | 4.5 |" in text and "- bad: assert 1 == 2" in text


def test_tests_that_take_too_long_are_ended_with_what_they_started(tmp_path):
    code = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child = int(process.stdout.readline())
    found = correctness._outcome(process, time.monotonic() + 0.1, tmp_path / "tests.xml")
    process.stdout.close()
    assert found == {"error": "not finished within the step's time"} and process.returncode == -9
    wait_until(lambda: has_ended(child))


def has_ended(process):
    """Gone, or a zombie whose parent has not looked yet."""
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_card_and_driver_come_from_nvidia_smi(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "NVIDIA H200, 143771 MiB, 580.159.04, 700.00 W, 1980 MHz"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = facts.describe("python x")
    assert (found["card"], found["driver"], found["max_clock"]) == ("NVIDIA H200", "580.159.04", "1980 MHz")
    assert found["command"] == "python x" and found["versions"]["torch"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert facts.describe("x")["driver"] == "unknown"


BLOCKED = ("omegaconf", "hydra", "nemo", "lightning", "pytorch_lightning", "datasets", "trl", "transformers", "peft")


def test_every_step_imports_without_hydra_nemo_and_the_peers():
    modules = ["__main__", *(step.module for step in plan.STEPS)]
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({BLOCKED}))\n"  # None: importing it raises
        f"for name in {modules}: importlib.import_module('nemo_mm_align.benchmarks.gpu.' + name)\n"
        f"print(sorted(n for n in {BLOCKED} if sys.modules[n] is not None))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr
