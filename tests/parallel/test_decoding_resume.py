"""`scripts/sample.py` and `scripts/generate.py` as a user runs them: killed and resumed, steered, given bad input."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from nemo_mm_align.schema.records import CandidateSet, read_records
from tests.decoding_model import make_folder, make_prompts
from tests.distributed import REPOSITORY, free_port
from tests.golden.worker import run_scripts
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.parallel

FLOAT64 = REPOSITORY / "tests/float64.py"
SAMPLING = ["num_samples=2", "max_new_tokens=24"]
PROMPTS = 40
ATTEMPTS = 5
"""At hitting a moment of a run: we may be late on a busy machine, though not always."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    make_folder(folder / "model")
    make_prompts(folder, PROMPTS)
    (folder / "changing").mkdir()
    for number in range(3):
        shutil.copy(folder / f"{number}.png", folder / "changing")
    return folder


def checkpoint(folder: Path) -> list[str]:
    return [f"checkpoint={folder / 'model'}", "template=vicuna_v1", "template.system="]


def command(folder: Path, script: str, *overrides: str, ranks: int = 1, float64: bool = False) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(free_port())]
    start = [
        sys.executable,
        *(launcher if ranks > 1 else []),
        *([str(FLOAT64)] if float64 else []),
    ]
    return [*start, str(REPOSITORY / "scripts" / script), *checkpoint(folder), *overrides]


def start(folder: Path, *arguments: str, ranks: int = 1, float64: bool = False) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    words = command(folder, *arguments, ranks=ranks, float64=float64)
    return subprocess.Popen(words, cwd=folder, env=environment, text=True, **pipes)  # type: ignore[call-overload]


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    """Where the runs lie that nothing disturbs, one process's: a sweep, a sampling, another with pictures elsewhere."""

    def words(name: str, *more: str) -> list[str]:
        return [*checkpoint(folder), f"prompts={folder}/prompts.jsonl", f"out={folder}/{name}.jsonl", *more]

    def sampled(name: str, *more: str) -> tuple[Path, list[str]]:
        return FLOAT64, [str(REPOSITORY / "scripts/sample.py"), *words(name, *SAMPLING, *more)]

    sweep = words("sweep", "max_new_tokens=4", "sweep=[verbosity]", "attributes.helpfulness=3")
    elsewhere = f"image_root={folder}/changing"
    run_scripts(folder, [("generate.py", sweep), sampled("undisturbed"), sampled("changing", elsewhere)])
    return folder


@pytest.fixture(scope="module")
def undisturbed(finished: Path) -> bytes:
    return (finished / "undisturbed.jsonl").read_bytes()


def wait_for_answers(process: subprocess.Popen[str], out: Path) -> None:
    """Wait for some, or for the end of the run, which may have overtaken us."""
    wait_until(lambda: process.poll() is not None or answers(out) > 4)
    assert process.poll() in (None, 0), process.communicate()


def answers(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.exists() else 0


def sample(folder: Path, out: str, *overrides: str, ranks: int = 1) -> subprocess.Popen[str]:
    """In float64: answers are compared between layouts and batches, and in fp32 rounding may choose a token."""
    settings = [*SAMPLING, "prompts=prompts.jsonl", f"out={out}"]
    return start(folder, "sample.py", *settings, *overrides, ranks=ranks, float64=True)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill the launcher and its ranks, none of which may clean up."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    psutil.wait_procs(family[:-1], timeout=PATIENCE_S)
    process.communicate(timeout=PATIENCE_S)


def test_killed_and_resumed_the_file_equals_an_undisturbed_run(folder: Path, undisturbed: bytes) -> None:
    layout = ["tensor_model_parallel_size=2", "max_batch_tokens=180"]
    for number in range(ATTEMPTS):
        out = folder / f"resumed{number}.jsonl"
        process = sample(folder, out.name, *layout, ranks=2)
        wait_for_answers(process, out)
        if process.poll() is None:
            kill(process)
        if answers(out) < PROMPTS:
            break
    before = out.read_bytes()
    whole = before[: before.rindex(b"\n") + 1]
    assert 4 < whole.count(b"\n") < PROMPTS
    out.write_bytes(whole + b'{"prompt_id": "p1", "candi')  # as if the kill had come within a write
    finish(sample(folder, out.name, *layout, ranks=2))
    assert out.read_bytes() == undisturbed
    records = list(read_records(out, CandidateSet))
    assert [record.prompt_id for record in records] == [f"p{number}" for number in range(PROMPTS)]
    assert set(whole.splitlines()) <= set(out.read_bytes().splitlines())


def test_asked_to_stop_it_ends_within_some_steps_and_goes_on(
    folder: Path, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(ATTEMPTS):
        out = folder / f"stopped{number}.jsonl"
        process = sample(folder, out.name, "max_batch_tokens=180")
        wait_for_answers(process, out)
        process.send_signal(signal.SIGTERM)
        messages = "".join(process.communicate(timeout=PATIENCE_S))
        if answers(out) < PROMPTS:
            break
    assert process.returncode == 143 and "asked to stop" in messages
    before = out.read_bytes()
    assert before.endswith(b"\n") and 4 < before.count(b"\n") < PROMPTS

    monkeypatch.setenv("NEMO_MM_ALIGN_STOP_FILE", str(folder / "STOP"))
    (folder / "STOP").touch()
    process = sample(folder, out.name, "max_batch_tokens=180")
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143 and out.read_bytes() == before
    (folder / "STOP").unlink()  # it stays for the job script, which removes it at its next start
    finish(sample(folder, out.name, "max_batch_tokens=180"))
    assert out.read_bytes() == undisturbed


def test_in_fp32_a_resumed_run_gives_the_same_tokens(finished: Path) -> None:
    """Half of the lines are there: others share the batch than did at first."""
    whole = finished / "sweep.jsonl"
    half = finished / "half_sweep.jsonl"
    lines = whole.read_bytes().splitlines(keepends=True)
    half.write_bytes(b"".join(lines[::2]))
    for ending in ("settings.json", "provenance.jsonl"):
        shutil.copy(finished / f"sweep.{ending}", finished / f"half_sweep.{ending}")
    asked = ["max_new_tokens=4", "sweep=[verbosity]", "attributes.helpfulness=3", "max_batch_tokens=150"]
    finish(start(finished, "generate.py", "prompts=prompts.jsonl", f"out={half.name}", *asked))
    assert half.read_bytes() == whole.read_bytes()


def test_a_sweep_answers_every_prompt_once_per_value(finished: Path) -> None:
    asked = [record.sampling["attributes"] for record in read_records(finished / "sweep.jsonl", CandidateSet)]
    assert [values["verbosity"] for values in asked[:5]] == [0, 1, 2, 3, 4] and len(asked) == 5 * PROMPTS
    assert {values["helpfulness"] for values in asked} == {3}


def test_one_question_is_answered_on_standard_output(folder: Path) -> None:
    question = ['question="w1 w2 w3"', "image=0.png", "max_new_tokens=5", "hydra.job_logging.root.level=WARNING"]
    answer = finish(start(folder, "generate.py", *question)).strip().splitlines()[-1]
    assert 1 <= len(answer.split()) <= 5 and set(answer.replace("w", "").split()) <= set(map(str, range(99)))


def refused(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2 and "Traceback" not in errors, errors
    return next(line for line in errors.splitlines() if line.startswith("error: ")) + errors


def test_broken_images_are_found_before_weights_are_read(folder: Path) -> None:
    (folder / "broken").mkdir()
    for number in range(3):
        data = (folder / f"{number}.png").read_bytes()
        (folder / "broken" / f"{number}.png").write_bytes(data[:-200] if number == 1 else data)
    (folder / "model" / "model.safetensors").rename(folder / "model" / "away")
    try:
        message = refused(sample(folder, "broken.jsonl", "image_root=broken"))
    finally:
        (folder / "model" / "away").rename(folder / "model" / "model.safetensors")
    assert "1 faults" in message and "1.png" in message
    assert (folder / "broken.jsonl").read_bytes() == b""


def test_a_picture_that_has_changed_since_is_noticed(folder: Path, undisturbed: bytes) -> None:
    out = folder / "changing.jsonl"
    assert out.read_bytes() == undisturbed
    shutil.copy(folder / "0.png", folder / "changing/1.png")
    message = refused(sample(folder, out.name, "image_root=changing"))
    assert "is about another picture: " in message and "changing/1.png" in message
    assert out.read_bytes() == undisturbed


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["tensor_model_parallel_size=3"], "1 ranks cannot hold whole replicas of tensor 3"),
        (["max_new_tokens=4096"], "positions: lower max_new_tokens"),
        (["temperature=0"], "num_samples=2 with temperature=0"),
        (["checkpoint=nowhere"], "nowhere: no such folder"),
        (["prompts=missing.jsonl"], "missing.jsonl: no such file"),
    ],
)
def test_bad_input_is_told_before_anything_is_built(folder, monkeypatch, overrides, expected):
    """In this process, with the configuration that the script would read."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from nemo_mm_align.core.errors import UserError
    from nemo_mm_align.inference.run import answer_prompts
    from nemo_mm_align.inference.settings import settings_from_config

    monkeypatch.chdir(folder)
    given = command(folder, "sample.py", "num_samples=2", "prompts=prompts.jsonl", "out=bad.jsonl", *overrides)[2:]
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base=None):
        config = compose("sample", given)
    with pytest.raises(UserError, match=expected):
        answer_prompts(settings_from_config(OmegaConf.to_container(config, resolve=True)))
    assert not (folder / "bad.jsonl").exists()
