"""The attribute model in every layout, both poolings, with missing values and shared prefixes, pinned and resumed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from PIL import Image

from nemo_mm_align.parallel.checkpoint_folder import latest_checkpoint, read_metadata
from tests.golden.runs import LAYOUTS as GOLDEN_LAYOUTS
from tests.golden.runs import small_run
from tests.golden.worker import run_scripts
from tests.tiny import sentence, tiny_llava

pytestmark = pytest.mark.parallel

LAYOUTS = {"tp2": GOLDEN_LAYOUTS["tp2"][1], "pp2": GOLDEN_LAYOUTS["pp2"][1], "dp2": []}
"""Words of layouts of two processes."""
STEPS = 4
VARIANTS = {
    "last": [],
    "apart": ["recipe.shared_prefix=false"],
    "mean": ["recipe.pooling=mean", "model.lora=null"],
    "mean_apart": ["recipe.pooling=mean", "model.lora=null", "recipe.shared_prefix=false"],
    "pairs": ["recipe.loss_function=scaled_bradley_terry", "recipe.weights={helpfulness:0.65,verbosity:-0.4}"],
}
NAMES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
CALLS = {"tp2": ("last", "pairs"), "pp2": ("last", "apart"), "dp2": ("mean", "pairs")}
PINNED = {
    "last": [1.383911064692906, 1.9293379647391182, 1.2567906215273101, 1.109872397254495],
    "pairs": [0.4549354016780853, 0.9335393756628036, 0.8119804859161377, 0.5646314322948456],
}
"""Losses of the steps on this data."""


def rated_data(folder: Path, count: int = 12) -> Path:
    """Prompts with one to three answers; every third is text alone, every fourth value is missing."""
    source = random.Random(0)
    lines = []
    for index in range(count):
        image = index % 3 != 2
        if image:
            Image.new("RGB", (40, 24 + index), tuple(source.randrange(256) for _ in range(3))).save(
                folder / f"{index}.png"
            )
        question = ("<image>\n" if image else "") + f"{sentence(source, 3 + index % 4)}?"
        answers = []
        for place in range(1 + index % 3):
            values = {name: source.randrange(9) / 2 for name in NAMES if source.random() < 0.75}
            answers.append({"text": f"{sentence(source, 2 + place)} {place}", "attributes": values or {"verbosity": 1}})
        images = [f"{index}.png"] if image else []
        turns = [{"role": "user", "content": question}]
        lines.append(json.dumps({"id": f"r{index}", "images": images, "turns": turns, "answers": answers}))
    path = folder / "rated.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_llava(folder / "model")
    rated_data(folder)
    return folder


def words(inputs: Path, out: Path, name: str, *more: str) -> list[str]:
    lora = ["model.lora.rank=4", "model.lora.alpha=8", "model.lora.dropout=0"]
    return [
        "recipe=attribute_model",
        *small_run(name, inputs / "model", inputs / "rated.jsonl", out, STEPS),
        "recipe.epochs=99",
        "model.optim.schedule=constant",
        *([] if "model.lora=null" in more else lora),
        *more,
    ]


def curves(run: Path) -> dict[str, list[float]]:
    steps = [json.loads(line) for line in (run / "metrics/training.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    return {name: [step[name] for step in steps] for name in steps[0] if name.startswith(("loss", "mae_", "pair_"))}


def assert_same(found: dict[str, list[float]], expected: dict[str, list[float]], rel: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=rel, nan_ok=True), name


@pytest.fixture(scope="module")
def out(inputs: Path) -> Path:
    """Where all runs lie: ``LAYOUT/VARIANT``. In each layout the first is interrupted after two steps and gone on with."""
    calls = []
    for layout, names in CALLS.items():
        runs = [words(inputs, inputs / layout, name, *VARIANTS[name], *LAYOUTS[layout]) for name in names]
        calls += [[*runs[0], "trainer.max_steps=2"], *runs]
    calls.append(words(inputs, inputs / "tp2", "bf16", *LAYOUTS["tp2"], "precision=bf16"))
    alone = [words(inputs, inputs / "one", name, *more) for name, more in VARIANTS.items()]
    run_scripts(inputs, [("train.py", call) for call in calls], 2, [("train.py", call) for call in alone])
    return inputs


@pytest.fixture(scope="module")
def one_process(out: Path) -> dict[str, dict[str, list[float]]]:
    return {name: curves(out / "one" / name) for name in VARIANTS}


def test_losses_are_the_pinned_ones_and_do_not_depend_on_how_answers_are_laid_out(one_process) -> None:
    assert set(one_process["last"]) == {"loss", "pair_accuracy", *(f"mae_{name}" for name in NAMES)}
    for name, losses in PINNED.items():
        assert one_process[name]["loss"] == pytest.approx(losses, rel=1e-5)
    assert_same(one_process["apart"], one_process["last"])
    assert_same(one_process["mean_apart"], one_process["mean"])
    assert one_process["mean"]["loss"] != pytest.approx(one_process["last"]["loss"], rel=0.01)


@pytest.mark.parametrize("layout", CALLS)
def test_every_layout_has_the_same_losses_and_metrics(layout: str, out: Path, one_process) -> None:
    for name in CALLS[layout]:
        assert_same(curves(out / layout / name), one_process[name])


def test_bf16_has_almost_the_same_losses(out: Path, one_process) -> None:
    losses = curves(out / "tp2/bf16")["loss"]
    assert_same({"loss": losses}, {"loss": one_process["last"]["loss"]}, rel=0.05)


def test_what_the_weights_stood_for_is_kept(out: Path) -> None:
    newest = latest_checkpoint(out / "one/last")
    assert newest is not None and newest.name == f"step_{STEPS:08d}"
    metadata = read_metadata(newest)
    assert metadata.head == {"outputs": list(NAMES), "pooling": "last"}
    expected = {"helpfulness": 1.0, "correctness": 1.0, "coherence": 1.0, "complexity": 0.0, "verbosity": 0.0}
    assert metadata.recipe["weights"] == expected
