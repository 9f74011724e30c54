"""A recipe that another package brings: a regression head over hidden states, trained by the scripts as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_mm_align.parallel.checkpoint_folder import latest_checkpoint, read_metadata
from tests.distributed import REPOSITORY
from tests.golden.runs import LAYOUTS as GOLDEN_LAYOUTS
from tests.golden.runs import small_run
from tests.golden.worker import run_scripts
from tests.tiny import tiny_llava, training_data

pytestmark = pytest.mark.parallel

CONF = REPOSITORY / "tests/own_recipe/conf"
LAYOUTS = {**GOLDEN_LAYOUTS, "dp2": (2, [])}
VARIANTS = {
    "last": ["recipe.pooling=last"],
    "mean_and_likelihood": ["recipe.pooling=mean", "recipe.likelihood_weight=0.05", "model.lora=null"],
}
STEPS = 6


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The model and data, while the package is installed: its metadata lie in a folder of PYTHONPATH."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_llava(folder / "model")
    training_data(folder, "steerlm")
    installed = folder / "site/own_recipe-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: own-recipe\nVersion: 1.0\n")
    point = "attribute_regression = tests.own_recipe.attribute_regression:RECIPE"
    (installed / "entry_points.txt").write_text(f"[nemo_mm_align.recipes]\n{point}\n")
    path = [str(folder / "site"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.pathsep.join(path))
        yield folder


def words(inputs: Path, out: Path, name: str, *more: str) -> list[str]:
    return [
        f"--config-dir={CONF}",
        "recipe=attribute_regression",
        *small_run(name, inputs / "model", inputs / "steerlm.jsonl", out, STEPS),
        "recipe.epochs=99",
        "model.lora.rank=4",
        "model.lora.alpha=8",
        "model.lora.dropout=0",
        "model.optim.schedule=constant",
        *more,
    ]


def curve(run: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (run / "metrics/training.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return curve(run, "loss")


@pytest.fixture(scope="module")
def one_process(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one")
    run_scripts(out, [("train.py", words(inputs, out, variant, *VARIANTS[variant])) for variant in VARIANTS])
    return out


@pytest.fixture(scope="module")
def two_processes(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of both variants at every layout of two processes, of bf16 that goes on, and of one that goes on at another layout."""
    out = tmp_path_factory.mktemp("two")
    calls = [
        words(inputs, out / layout, variant, *VARIANTS[variant], *LAYOUTS[layout][1])
        for layout in ("tp2", "pp2", "dp2")
        for variant in VARIANTS
    ]
    for layout in ("tp2", "dp2"):
        call = words(inputs, out / "bf16", layout, *VARIANTS["last"], *LAYOUTS[layout][1], "precision=bf16")
        calls += [[*call, "trainer.max_steps=3"], call]
    moved = words(inputs, out / "moved", "last", *VARIANTS["last"])
    calls += [[*moved, *LAYOUTS["pp2"][1], "trainer.max_steps=3"], [*moved, *LAYOUTS["tp2"][1]]]
    run_scripts(out, [("train.py", call) for call in calls], 2)
    return out


@pytest.mark.parametrize("layout", ["tp2", "pp2", "dp2"])
def test_it_trains_alike_at_every_layout(layout: str, one_process: Path, two_processes: Path) -> None:
    for variant in VARIANTS:
        expected, run = losses(one_process / variant), two_processes / layout / variant
        assert len(expected) == STEPS and expected[-1] < 0.9 * expected[0]
        assert losses(run) == pytest.approx(expected, rel=1e-5)
        norms = curve(one_process / variant, "gradient_norm")
        assert curve(run, "gradient_norm") == pytest.approx(norms, rel=1e-4), "the head's counts once"


@pytest.mark.parametrize("layout", ["tp2", "dp2"])
def test_it_trains_and_goes_on_in_bf16_on_several_ranks(layout: str, one_process: Path, two_processes: Path) -> None:
    assert losses(two_processes / "bf16" / layout) == pytest.approx(losses(one_process / "last"), rel=0.05)


def test_it_goes_on_at_another_layout_with_its_head_and_optimizer(
    inputs: Path, one_process: Path, two_processes: Path
) -> None:
    run = two_processes / "moved/last"
    assert losses(run) == pytest.approx(losses(one_process / "last"), rel=1e-5)
    changed = script("train.py", *words(inputs, two_processes / "moved", "last", "recipe.pooling=mean"))
    assert changed.returncode == 2 and "was trained with the head" in changed.stderr, changed.stderr

    newest = latest_checkpoint(run)
    assert newest is not None and newest.name == f"step_{STEPS:08d}"
    names = ["helpfulness", "correctness", "coherence", "complexity", "verbosity"]
    assert read_metadata(newest).head == {"outputs": names, "pooling": "last"}
    assert json.loads((newest / "metadata.json").read_text())["format_version"] == 3


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "scripts" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)


def test_a_model_with_a_head_is_not_asked_for_answers(one_process: Path, tmp_path: Path) -> None:
    run = one_process / "last"
    told = r"has a head that tells helpfulness, correctness, coherence, complexity, verbosity of answers; "
    asked = script("generate.py", f"checkpoint={run}", "question=What is it?")
    assert asked.returncode == 2 and f"{told}it cannot be asked for answers." in asked.stderr, asked.stderr
    apart = script("convert.py", "direction=export", "adapters=apart", f"source={run}", f"out={tmp_path}/apart")
    assert apart.returncode == 2 and f"{told}a folder of PEFT has no place for that" in apart.stderr, apart.stderr
    assert not (tmp_path / "apart").exists()


def test_another_recipe_does_not_go_on_from_it(inputs: Path, one_process: Path) -> None:
    changed = ["recipe=steerlm", *words(inputs, one_process, "last")[2:]]
    done = script("train.py", *changed)
    assert done.returncode == 2 and "was trained with name=attribute_regression (now steerlm)" in done.stderr, (
        done.stderr
    )


def test_a_training_that_starts_from_a_head_says_what_becomes_of_it(
    inputs: Path, one_process: Path, tmp_path: Path
) -> None:
    def begin(name: str, start: Path, *more: str) -> subprocess.CompletedProcess[str]:
        call = [word for word in words(inputs, tmp_path, name, "trainer.max_steps=1", *more) if "hf_path" not in word]
        return script("train.py", *call, f"model.checkpoint={start}")

    adapters, whole = one_process / "last", one_process / "mean_and_likelihood"
    refused = begin("adapters", adapters, "model.lora=null")
    assert refused.returncode == 2 and "holds adapters and a head that rates answers" in refused.stderr, refused.stderr
    assert f"({inputs}/model)" in refused.stderr and not (tmp_path / "adapters").exists()

    kept = begin("kept", whole, *VARIANTS["mean_and_likelihood"])
    assert kept.returncode == 0 and "begins anew" not in kept.stdout + kept.stderr, kept.stderr
    assert losses(tmp_path / "kept")[0] < losses(whole)[0]
    fresh = begin("fresh", whole, "recipe.pooling=last")
    assert fresh.returncode == 0 and "and begins anew. Its language model" in fresh.stdout + fresh.stderr, fresh.stderr


def test_estimate_and_its_own_types_know_it(inputs: Path, tmp_path: Path) -> None:
    estimate = script(
        "estimate.py",
        f"--config-dir={CONF}",
        "recipe=attribute_regression",
        "model=llava15_7b",
        "nodes=1",
        "gpus_per_node=8",
    )
    assert estimate.returncode == 0, estimate.stderr
    assert "rows: 1 x 2048 tokens, 0 with a loss" in estimate.stdout, "the last token is computed, no label is"
    refused = script("train.py", *words(inputs, tmp_path, "x", "recipe.pooling=middle"))
    assert refused.returncode == 2 and "recipe.pooling='middle': choose from last, mean" in refused.stderr, (
        refused.stderr
    )
