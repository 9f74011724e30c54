"""Recipes of uneven samples at every layout: rows with and without a line, pairs with and without a flip line or an image,
labelled answers with the point that other prompts' answers give.

The lists of losses are pinned, as those of tests/golden are for the recipes of the paper.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.runs import LAYOUTS, losses, small_run
from tests.golden.worker import run_scripts
from tests.tiny import tiny_llava, training_data

pytestmark = pytest.mark.parallel

STEPS, STOP = 5, 3
PINNED = {
    "steerlm": [6.910275, 6.220252, 5.880741, 4.557873, 3.887126],
    "attribute_dpo": [2.815569, 3.830661, 4.132612, 2.581772, 3.400876],
    "kto": [0.500000, 0.510147, 0.516287, 0.277853, 0.252539],
    "mdpo": [1.732868, 1.645449, 2.052039, 0.998704, 1.038577],
    "steerlm2": [0.071937, 0.364056, 0.432084, 0.009407, 0.040499],
}
"""Losses of the five steps; of mdpo the first is 2.5 ln 2: pair and anchor of each sample, and the image of every second;
of kto the last has a reference point of 0.19 nats."""
RECIPES = {
    "steerlm": ["model.lora=null"],
    "attribute_dpo": [
        "recipe.contrast_weight=0.5",
        "recipe.anchor_weight=0.2",
        "recipe.epochs=99",
        "model.lora.rank=4",
        "model.lora.alpha=8",
    ],
    "kto": ["recipe.epochs=99", "model.lora.rank=4", "model.lora.alpha=8"],
    "mdpo": ["recipe.epochs=99", "model.lora.rank=4", "model.lora.alpha=8"],
    "steerlm2": ["model.lora=null", "recipe.epochs=99"],
}


def conditioned(folder: Path) -> None:
    """Of the records every third asks for nothing; every second pair that asks has a flip line."""
    for kind, name in (("steerlm", "steerlm"), ("preference", "attribute_dpo")):
        lines = [json.loads(line) for line in training_data(folder, kind).read_text().splitlines()]
        for index, record in enumerate(lines):
            record["attributes"] = None if index % 3 == 0 else {"complexity": index % 5, "verbosity": (index + 2) % 5}
            if kind == "preference" and index % 3 == 1:
                record["flip_attributes"] = {"complexity": index % 5, "verbosity": (index + 3) % 5}
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    records = [json.dumps(weighed(*item)) + "\n" for item in enumerate(lines)]
    (folder / "steerlm2.jsonl").write_text("".join(records))
    (folder / "held_out.jsonl").write_text("".join(records[:4]))


def weighed(index: int, pair: dict[str, Any]) -> dict[str, Any]:
    """Two or three answers of a pair's prompt; every third record brings log-priors of its own."""
    texts = [pair["chosen"], pair["rejected"], f"{pair['rejected']} {pair['chosen']}"][: 2 + index % 2]
    answers = [{"text": text, "log_likelihood": -float(place * (1 + index % 3))} for place, text in enumerate(texts)]
    if index % 3 == 2:
        answers = [answer | {"log_prior": -20.0 - place} for place, answer in enumerate(answers)]
    line = {"complexity": index % 5, "verbosity": (index + 2) % 5}
    return {key: pair[key] for key in ("id", "images", "turns") if key in pair} | {
        "attributes": line,
        "answers": answers,
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_llava(folder / "model")
    conditioned(folder)
    training_data(folder, "preference").rename(folder / "mdpo.jsonl")
    training_data(folder / "kto", "labelled")
    return folder


def words(inputs: Path, out: Path, recipe: str, *more: str) -> list[str]:
    data = inputs / ("kto/labelled.jsonl" if recipe == "kto" else f"{recipe}.jsonl")
    run = small_run(recipe, inputs / "model", data, out, STEPS)
    dropout = [] if "model.lora=null" in RECIPES[recipe] else ["model.lora.dropout=0"]
    return [f"recipe={recipe}", *run, *RECIPES[recipe], *dropout, *more]


@pytest.mark.parametrize("layouts", [("one",), ("tp2", "pp2")], ids="-".join)
def test_losses_are_pinned_at_every_layout_and_for_resumed_runs(
    layouts: tuple[str, ...], inputs: Path, tmp_path: Path
) -> None:
    """In several processes the runs are stopped after three steps and go on."""
    calls, ranks = [], LAYOUTS[layouts[0]][0]
    for layout in layouts:
        for recipe in RECIPES:
            run = words(inputs, tmp_path / layout, recipe, *LAYOUTS[layout][1], "model.optim.schedule=constant")
            calls += [("train.py", [*run, f"trainer.max_steps={STOP}"])] if ranks > 1 else []
            calls.append(("train.py", run))
    if ranks == 1:
        held_out = [f"data.validation={inputs}/held_out.jsonl", f"validation.every={STEPS}"]
        more = ["model.optim.schedule=constant", "recipe.shared_prefix=false", *held_out]
        calls.append(("train.py", words(inputs, tmp_path / "apart", "steerlm2", *more)))
    said = run_scripts(tmp_path, calls, ranks)
    assert "8 of 12 examples ask for attributes" in said
    for layout in layouts:
        found = {recipe: losses(tmp_path / layout / recipe)["loss"] for recipe in RECIPES}
        for recipe, expected in PINNED.items():
            exact = 5e-5 if recipe == "steerlm2" else 1e-5  # fp32 sums of log-probs, in an exponent
            assert found[recipe] == pytest.approx(expected, rel=exact), (layout, found)
    if ranks == 1:
        shared, apart = losses(tmp_path / "one/steerlm2"), losses(tmp_path / "apart/steerlm2")
        assert apart["loss"] == pytest.approx(shared["loss"], rel=5e-5)
        assert apart["gradient_norm"] == pytest.approx(shared["gradient_norm"], rel=1e-3)
        first = json.loads((tmp_path / "one/steerlm2/metrics/training.jsonl").read_text().splitlines()[0])
        policy = first["ess_policy"] * 4
        assert policy == pytest.approx(round(policy), abs=1e-4), "at the start all answers of a prompt count alike"
        held = json.loads((tmp_path / "apart/steerlm2/metrics/validation.jsonl").read_text().splitlines()[-1])
        assert held["validation/kl_target"] > 0 and held["validation/log_likelihood_policy"] < 0
        assert "log-probs of the answers per token before training" in said
        assert "is not known to have been trained to be asked for attributes" in said


def test_answers_to_one_prompt_in_one_row_teach_what_they_teach_in_rows_of_their_own(tmp_path: Path) -> None:
    """Three answers to each prompt, under two lines and none: one step over all of them, in 12 rows and in 4."""
    tiny_llava(tmp_path / "model")
    records = [json.loads(line) for line in training_data(tmp_path, "steerlm", count=4).read_text().splitlines()]
    lines = [None, {"complexity": 1, "verbosity": 4}, {"complexity": 3, "verbosity": 0}]
    rows = [
        record | {"id": f"{record['id']}#{number}", "attributes": line,
                  "turns": [record["turns"][0], {"role": "assistant", "content": "yes " * (number + 2) + "."}]}
        for record in records
        for number, line in enumerate(lines)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    calls = []
    for name, batch in (("apart", 12), ("shared", 4)):
        run = small_run(name, tmp_path / "model", tmp_path / "rows.jsonl", tmp_path, 1)
        more = ["model.max_length=400", f"recipe.shared_prefix={str(name == 'shared').lower()}", "model.lora=null"]
        calls.append(("train.py", ["recipe=steerlm", *run, *more, f"model.global_batch_size={batch}"]))
    said = run_scripts(tmp_path, calls)
    assert "12 answers in 4 rows: those to one prompt share it" in said
    apart, shared = (losses(tmp_path / name) for name in ("apart", "shared"))
    assert shared["loss"] == pytest.approx(apart["loss"], rel=1e-5)
    assert shared["gradient_norm"] == pytest.approx(apart["gradient_norm"], rel=1e-4)
