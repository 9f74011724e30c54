"""scripts/train.py as a user runs it: killed, stopped, resumed, resumed at another layout."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from nemo_mm_align.parallel.checkpoint import latest_checkpoint
from tests.distributed import REPOSITORY, free_port
from tests.golden.runs import UNPROBED
from tests.tiny import tiny_llava, training_data
from tests.waiting import PATIENCE_S, wait_until

STEPS = 9
ATTEMPTS = 5
"""At hitting a moment of a run: we may be late on a busy machine, though not always."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {kind: training_data(folder, kind) for kind in ("sft", "steerlm", "preference")}


def start(nproc: int, *overrides: str) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={nproc}", f"--master-port={free_port()}"]
    command = [sys.executable, *(launcher if nproc > 1 else []), str(REPOSITORY / "scripts/train.py"), *overrides]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY, start_new_session=True
    )


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL the launcher and its workers, which have sessions of their own."""
    launcher = psutil.Process(process.pid)
    for child in [*launcher.children(recursive=True), launcher]:
        child.kill()
    process.communicate()


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, output[-6000:]
    return output


def metrics(out: Path, name: str) -> list[dict[str, float]]:
    path = out / name / "metrics/training.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def losses(out: Path, name: str) -> list[tuple[float, float, float]]:
    return [(line["step"], line["loss"], line["gradient_norm"]) for line in metrics(out, name)]


def metrics_of_pairs() -> set[str]:
    """Names in the first column of docs/metrics.md that by its second one are told of all recipes, or of all on pairs."""
    lines = (REPOSITORY / "docs/metrics.md").read_text().splitlines()
    rows = [line.removeprefix("| ").split(" | ") for line in lines if line.startswith("| `")]
    named = [names for names, recipes, *_ in rows if recipes.startswith(("all", "pairs"))]
    return {name for names in named for name in re.findall(r"`([\w/]+)`", names)}


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Wait for it, or for the end of the run, which may have overtaken us."""
    wait_until(lambda: process.poll() is not None or condition())
    assert process.poll() in (None, 0), process.communicate()[0][-6000:]


def overrides(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        "model=mini",
        f"model.hf_path={model}",
        f"data.train={data}",
        f"exp_manager.exp_dir={out}",
        "precision=fp32",
        "model.max_length=200",
        "model.micro_batch_size=1",  # four micro batches a step: a kill lands within an accumulation
        "model.global_batch_size=4",
        "model.lora.rank=4",
        "model.lora.alpha=8",
        "model.lora.dropout=0.1",
        "model.optim.lr=1e-2",
        "model.optim.projector_lr=3e-3",
        "model.optim.eps=1e-4",  # Adam divides by almost nothing otherwise, and rounding becomes visible
        "checkpoint.every_n_steps=4",
        UNPROBED,
        *more,
    ]


def test_killed_stopped_and_resharded_runs_have_the_losses_of_an_undisturbed_one(
    model: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    tensor = "model.tensor_model_parallel_size=2"
    dpo = overrides(model, data["preference"], tmp_path, "recipe=dpo", f"data.reference_cache={tmp_path}/reference")
    output = finish(start(2, *dpo, tensor, "name=whole"))
    expected = losses(tmp_path, "whole")
    assert [step for step, *_ in expected] == list(range(1, STEPS + 1))
    assert "reference log-probs: 12 samples, 12 computed now" in output
    first = metrics(tmp_path, "whole")[0]
    assert first.keys() == metrics_of_pairs() - {"mfu"}, "on a CPU"
    assert first["peak_memory_gib"] > 0.1 and first["seconds"] > 0
    assert re.search(r"[\d,]+ tokens/s, \d+ % of the computed positions filled, at most [\d.]+ GiB on a rank", output)
    # Policy and reference are one model, in rows of other shapes: fp32 rounds their log-probs apart by 1e-7 or so.
    assert abs(first["reward_margin"]) <= 1e-5 * 0.1 * (abs(first["log_prob_chosen"]) + abs(first["log_prob_rejected"]))
    checkpoints = sorted(path.name for path in (tmp_path / "whole/checkpoints").iterdir())
    assert checkpoints == ["step_00000008", "step_00000009"]

    name = killed_after_step_4(tmp_path, *dpo, tensor)
    output = finish(start(2, *dpo, tensor, f"name={name}"))
    assert "from step 4" in output
    assert "12 samples, 0 computed now" in output
    assert losses(tmp_path, name) == expected  # to the bit: the same kernels on the same shapes, whatever they round to

    name, at = stopped_after_step_3(tmp_path, *dpo, tensor, "checkpoint.every_n_steps=0")
    assert [path.name for path in (tmp_path / name / "checkpoints").iterdir()] == [f"step_{at:08d}"]
    finish(start(2, *dpo, tensor, f"name={name}"))
    assert losses(tmp_path, name) == expected


def test_a_resumed_run_notices_a_picture_that_has_changed(model: Path, tmp_path: Path) -> None:
    sft = overrides(model, training_data(tmp_path / "data", "sft"), tmp_path, "recipe=sft", "name=changed")
    finish(start(1, *sft, "trainer.max_steps=4"))
    finish(start(1, *sft, "trainer.max_steps=5"))
    shutil.copy(tmp_path / "data/0.png", tmp_path / "data/1.png")
    output = finish(start(1, *sft, "trainer.max_steps=6"), code=2)
    assert "was trained with other pictures than its data name now" in output and "1.png" in output
    assert "Traceback" not in output and len(metrics(tmp_path, "changed")) == 5


def killed_after_step_4(out: Path, *words: str) -> str:
    """Name of a run killed with the checkpoint of step 4 behind it and steps lost; a kill that came too late is repeated."""
    for number in range(ATTEMPTS):
        folder = out / f"killed{number}"
        process = start(2, *words, f"name={folder.name}")
        wait_for(
            process, lambda folder=folder: latest_checkpoint(folder) is not None and len(metrics(out, folder.name)) > 4
        )
        if process.poll() is None:
            kill_all(process)
        newest = latest_checkpoint(folder)
        assert newest is not None
        if newest.name == "step_00000004" and len(metrics(out, folder.name)) < STEPS:
            return folder.name
    pytest.fail(f"{ATTEMPTS} runs were over before they could be killed")


def stopped_after_step_3(out: Path, *words: str) -> tuple[str, int]:
    """Name and last step of a run asked to stop; a request that came too late is repeated."""
    for number in range(ATTEMPTS):
        name = f"stopped{number}"
        process = start(2, *words, f"name={name}")
        wait_for(process, lambda name=name: len(metrics(out, name)) >= 3)
        process.send_signal(signal.SIGTERM)  # torchrun hands it on to its workers
        process.communicate(timeout=PATIENCE_S)
        if 3 <= (steps := len(metrics(out, name))) < STEPS:
            return name, steps
    pytest.fail(f"{ATTEMPTS} runs were over before they stopped")


def test_resumes_at_another_layout_though_not_in_another_number_format(
    model: Path, data: dict[str, Path], tmp_path: Path, in_process: Callable[[list[str]], str]
) -> None:
    steerlm = overrides(model, data["steerlm"], tmp_path, "recipe=steerlm", "model.lora.dropout=0", "name=run")
    finish(start(1, *steerlm))
    expected = losses(tmp_path, "run")
    (tmp_path / "run/checkpoints/step_00000009").rename(tmp_path / "last")
    refused = in_process([*steerlm, "precision=bf16"])
    assert "step_00000008: was trained with optimizer=torch AdamW for precision=fp32 (now torch AdamW for" in refused
    uneven = ["model.pipeline_model_parallel_size=2", "model.num_layers_in_first_pipeline_stage=1"]
    output = finish(start(2, *steerlm, *uneven))
    assert "from step 8" in output
    (_, resumed, norm) = losses(tmp_path, "run")[-1]
    # Stages share the same products out; only the norm is summed in another order, in fp32.
    assert resumed == pytest.approx(expected[-1][1], rel=1e-6)
    assert norm == pytest.approx(expected[-1][2], rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.tensor_model_parallel_size=3"], "does not divide model.language.num_attention_heads"),
        (["model.tensor_model_parallel_size=2"], "1 ranks cannot hold whole replicas"),
        (["model.max_length=999"], "the model has 512 positions"),
        (["model.max_length=20"], "too long"),
        (["precision=fp8_delayed"], "FP8 needs TransformerEngine"),
        (["model.hf_path=/nowhere"], "no such folder"),
        (["recipe=dpo"], "holds single answers, but recipe=dpo trains on preference pairs"),
        (["recipe=steerlm"], "needs examples with attributes"),
        (["model.micro_batch_size=3"], "is not a multiple of model.micro_batch_size"),
        (
            ["model.micro_batch_tokens=9"],
            "model.micro_batch_tokens=9: 12 of 12 examples have more positions, the longest is",
        ),
        (["data.train=/nowhere.jsonl"], "no such file"),
    ],
)
def test_mistakes_are_named_before_training(
    model: Path, data: dict[str, Path], tmp_path: Path, changes: list[str], message: str,
    capsys: pytest.CaptureFixture[str], in_process: Callable[[list[str]], str],
) -> None:  # fmt: skip
    arguments = overrides(model, data["sft"], tmp_path, "recipe=sft", *changes)
    assert message in in_process(arguments)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], str]:
    """Compose the configuration and start the run in this process, which spares the launch; return the error's text."""
    from hydra import compose, initialize_config_dir

    from nemo_mm_align.cli.entry_point import describe
    from nemo_mm_align.training.trainer import train

    def run(arguments: list[str]) -> str:
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base=None):
            config = compose("train", overrides=arguments)
        with pytest.raises(Exception) as caught:
            train(config)
        text = describe(caught.value)
        assert text is not None, repr(caught.value)
        return text

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1000k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk_is_named_and_loses_nothing(model: Path, data: dict[str, Path], small_disk: Path) -> None:
    output = finish(start(1, *overrides(model, data["sft"], small_disk, "recipe=sft", "checkpoint.keep=9")), code=2)
    assert "error: " in output and (
        "GB are free" in output or "No space left" in output or "the disk is full" in output
    )
    assert "Traceback" not in output.split("error: ")[1]
    kept = sorted(path.name for path in (small_disk / "sft/checkpoints").iterdir())
    assert kept == ["step_00000004"]
    assert (small_disk / "sft/checkpoints/step_00000004/metadata.json").is_file()
