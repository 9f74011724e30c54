"""The package as a wheel, in an empty environment outside the checkout, with what it declares and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from nemo_mm_align import __version__
from nemo_mm_align.miniature.folders import SHIPPED_BASE
from tests.e2e.test_evaluate import held_out as charts  # noqa: F401
from tests.e2e.test_evaluate import write_answers
from tests.judge_server import Files, judge_server, make_files

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SOURCES = ("nemo_mm_align", "conf", "scripts", "pyproject.toml", "README.md", "LICENSE")
HEAVY = ("torch", "megatron_core", "transformers", "google_generativeai", "datasets", "lightning")


def clean() -> dict[str, str]:
    """This process's environment without what would find the checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def run(command: Sequence[str | Path], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=clean(), capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: building leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = repository / name
        if source.is_dir():
            shutil.copytree(source, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run([*pip, "--wheel-dir", str(folder), "."], folder / "source")
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def program(wheel: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``nemo-mm-align`` of an environment that holds the wheel with its dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", folder / "venv"], folder)
    pip = [folder / "venv/bin/python", "-m", "pip"]
    run([*pip, "install", "--quiet", wheel, "-c", repository / "constraints.txt"], folder)
    run([*pip, "check"], folder)
    return folder / "venv/bin/nemo-mm-align"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path, 4)


def test_the_wheel_holds_every_file_of_package_settings_and_scripts(wheel: Path, repository: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packaged = [path for path in (repository / "nemo_mm_align").rglob("*") if path.is_file()]
    expected = {str(path.relative_to(repository)) for path in packaged if "__pycache__" not in path.parts}
    for folder in ("conf", "scripts"):
        kinds = {".yaml", ".py"}
        expected |= {
            f"nemo_mm_align/{path.relative_to(repository)}"
            for path in (repository / folder).rglob("*")
            if path.suffix in kinds
        }
    assert not expected - names
    assert not [name for name in names - expected if ".dist-info/" not in name]


def test_the_list_of_packages_is_complete(repository: Path) -> None:
    listed = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = [path.parent.relative_to(repository) for path in (repository / "nemo_mm_align").rglob("__init__.py")]
    assert sorted(listed) == sorted(
        [*(".".join(path.parts) for path in found), "nemo_mm_align.conf", "nemo_mm_align.scripts"]
    )


def test_it_says_what_it_is(program: Path, tmp_path: Path) -> None:
    assert run([program, "--version"], tmp_path).strip() == __version__
    assert "label " in run([program, "--help"], tmp_path)
    assert "judge" in run([program, "label", "--help"], tmp_path)
    unknown = subprocess.run([program, "lable"], cwd=tmp_path, env=clean(), capture_output=True, text=True)
    assert unknown.returncode and "Did you mean label?" in unknown.stderr


def test_without_engine_it_labels_builds_estimates_and_launches(program: Path, files: Files) -> None:
    """With a judge behind OpenAI's protocol; none of the engine's packages is there."""
    folder = files.folder
    installed = run([program.parent / "python", "-m", "pip", "list", "--format=freeze"], folder).replace("-", "_")
    assert not [name for name in HEAVY if f"\n{name}==" in installed]
    with judge_server() as server:
        address = (f"judge.base_url={server.address}/v1", "judge.model=judge-1", "judge.api_key_variable=null")
        words = ("prompts=prompts.jsonl", "candidates=candidates.jsonl", "out=annotations.jsonl")
        run([program, "label", "judge=openai_compatible", *address, *words], folder)
    run([program, "build", "method=preference", "annotations=annotations.jsonl", "out=preference.jsonl"], folder)
    assert (folder / "preference.jsonl").stat().st_size
    one_node = ("trainer.num_nodes=1", "trainer.devices=8", "gpu=h100_80gb")
    assert "GiB" in run([program, "estimate", "model=llava15_7b", "recipe=dpo", *one_node], folder)
    words = ("stages=[train]", "cluster=bcm", "experiment=dpo_llava15_7b_1x8", f"base_results_dir={folder}/results")
    data = ("train.data.train=/data/preference.jsonl", "train.model.hf_path=/models/llava")
    assert "sbatch" in run([program, "launch", *words, *data, "container=/images/x.sqsh", "dry_run=true"], folder)


def test_without_engine_it_evaluates(program: Path, tmp_path: Path, charts) -> None:  # noqa: F811
    write_answers(tmp_path / "base.jsonl", charts, lambda prompt: "yes")
    run(
        [program, "evaluate", "task=miniature", "prompts=heldout.jsonl", "answers={base: base.jsonl}", "out=out"],
        tmp_path,
    )
    assert (tmp_path / "out/report.html").is_file()


def test_what_is_missing_is_said_with_its_extra(program: Path, files: Files) -> None:
    words = ("prompts=prompts.jsonl", "candidates=candidates.jsonl", "out=annotations.jsonl")
    for judge, extra in (("gemini", "gemini"), ("google_genai", "google-genai"), ("anthropic", "anthropic")):
        model = ["judge.model=m"] if judge == "anthropic" else []
        command = [program, "label", f"judge={judge}", *model, *words]
        done = subprocess.run(command, cwd=files.folder, env=clean(), capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stderr and f"nemo_mm_align[{extra}]" in done.stderr, (
            done.stderr
        )


def test_the_engine_that_is_missing_is_said_in_a_sentence(program: Path, files: Files) -> None:
    shutil.copytree(SHIPPED_BASE, files.folder / "model")
    paths = (
        "model.hf_path=model",
        "model.max_length=256",
        "template=vicuna_v1",
        "data.train=prompts.jsonl",
        "exp_manager.exp_dir=results",
    )
    for words in (["train", "recipe=sft", "model=mini", *paths], ["miniature", "out=quickstart"]):
        done = subprocess.run([program, *words], cwd=files.folder, env=clean(), capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stderr and "nemo_mm_align[" in done.stderr, done.stderr
