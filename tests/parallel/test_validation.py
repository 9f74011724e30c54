"""Validation while training: the same at every layout, exact in uneven batches, and nothing of it in the training's numbers."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_mm_align.core.run_health import read_health
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel.checkpoint_folder import checkpoints_of, read_metadata
from nemo_mm_align.parallel.source import open_source
from nemo_mm_align.training.step import PACKING_EFFICIENCY
from tests.distributed import REPOSITORY, run_distributed
from tests.golden.worker import run_scripts
from tests.parallel.test_training import STEPS, finish, losses, overrides, start
from tests.parallel.validation_worker import BUDGET, build, held_out, measure, trained, validation
from tests.tiny import sentence, tiny_llava, training_data
from tests.tiny_llava import make_llava

NAMES = ("sft", "dpo", "kto", "attribute_model")
PACKED = "model.micro_batch_tokens=600"
"""Several samples to a row."""
LAYOUTS = {
    "tp2": ["model.tensor_model_parallel_size=2", "model.sequence_parallel=true"],
    "pp2": ["model.pipeline_model_parallel_size=2", "model.num_layers_in_first_pipeline_stage=1", PACKED],
    "dp2": [PACKED],
}
"""Words of layouts of two processes, two of them with packed rows, which make the same losses."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava(tmp_path_factory.mktemp("llava") / "llava")


@pytest.mark.usefixtures("process_group")
class TestMeasuring:
    """Forward passes in this process and in two others."""

    def test_every_layout_tells_the_same(self, folder: Path, tmp_path: Path) -> None:
        expected = measure(folder, ParallelConfig())
        for count in (5, 1):
            assert expected[f"mdpo {count}"] == pytest.approx(expected[f"mdpo apart {count}"], rel=1e-5, nan_ok=True)
        run_distributed("tests/parallel/validation_worker.py", 2, folder, tmp_path / "found.json")
        for layout, found in json.loads((tmp_path / "found.json").read_text()).items():
            for case, metrics in expected.items():
                # Of sums of log-probs times 0.1 less is lost to rounding than of means of them times 2, or of errors squared.
                near = 5e-6 if case.startswith(("simpo", "attribute_model")) else 1e-6
                assert found[case]["loss"] == pytest.approx(metrics["loss"], rel=near), (layout, case)
                assert found[case] == pytest.approx(metrics, rel=1e-5, abs=1e-5, nan_ok=True), (layout, case)

    @pytest.mark.parametrize(
        "name",
        ["sft", "dpo", "dpo apart", "mdpo", "rpo", "kto", "steerlm2", "attribute_model", "attribute_model apart"],
    )
    def test_full_rows_train_as_padded_ones_do(self, folder: Path, name: str) -> None:
        padded, packed = (trained(folder, name, ParallelConfig(), budget) for budget in (None, 2 * BUDGET))
        assert packed.pop(PACKING_EFFICIENCY) > padded.pop(PACKING_EFFICIENCY)
        assert packed["loss"] == pytest.approx(padded["loss"], rel=2e-6)
        assert packed["gradient_norm"] == pytest.approx(padded["gradient_norm"], rel=1e-5)
        assert packed == pytest.approx(padded, rel=1e-5, abs=1e-6, nan_ok=True)

    @pytest.mark.parametrize("name", NAMES)
    def test_neither_dropout_nor_the_last_batch_shows(self, folder: Path, name: str) -> None:
        model = build(folder, name, ParallelConfig(), dropout=0.5)
        with torch.no_grad():
            for tensor, parameter in model.named_parameters():
                if ".adapters." in tensor:
                    parameter.normal_(std=0.2)
        before = torch.get_rng_state()
        alone = [validation(name, [sample], 1).measure(model) or {} for sample in held_out(name)]
        found = [validation(name, held_out(name), size).measure(model) or {} for size in (1, 2, 3, 5)]
        assert model.training and torch.equal(torch.get_rng_state(), before)
        assert [one["loss"] for one in found[1:]] == pytest.approx([found[0]["loss"]] * 3, rel=1e-6)
        assert found[1] == pytest.approx(found[0], rel=1e-5, nan_ok=True)
        if name == "dpo":  # a mean over pairs: of five, each is worth a fifth
            for metric in ("loss", "rewards/accuracies", "rewards/margins"):
                assert found[1][metric] == pytest.approx(sum(one[metric] for one in alone) / 5, rel=1e-6)
        if name == "kto":  # the reference point is that of all samples, not of a micro batch
            assert found[0]["kl"] > 0 and found[0]["kl"] != pytest.approx(alone[0]["kl"], rel=0.1)
        if name == "sft":  # a mean over answer tokens: a sample's loss weighs as many as it has
            weights = [sum(sequence.num_answer_tokens for sequence in item.sequences) for item in held_out(name)]
            total = sum(one["loss"] * weight for one, weight in zip(alone, weights, strict=True))
            assert found[1]["loss"] == pytest.approx(total / sum(weights), rel=1e-6)

    def test_asked_to_stop_it_says_nothing(self, folder: Path) -> None:
        model = build(folder, "sft", ParallelConfig())
        answers = iter([True, False])
        assert validation("sft", held_out("sft"), 2).measure(model, lambda: next(answers)) is None
        assert model.training


def lines(out: Path, run: str, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / run / f"metrics/{name}.jsonl").read_text().splitlines()]


def prompts(folder: Path) -> Path:
    """Text, a picture, and a dialogue of two questions."""
    source = random.Random(4)
    turns = [[{"role": "user", "content": f"{mark}{sentence(source, 5)}?"}] for mark in ("", "<image>\n", "")]
    records = [
        {"id": "text", "turns": turns[0]},
        {"id": "picture", "images": ["data/0.png"], "turns": turns[1]},
        {"id": "dialogue", "turns": turns[2], "follow_ups": [f"{sentence(source, 3)}?"]},
    ]
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str], Path]:
    """Words of a training, those that have it watched, and where runs go."""
    out = tmp_path_factory.mktemp("watched")
    model, data = tiny_llava(out / "model"), training_data(out / "data", "preference")
    held = training_data(out / "held", "preference", count=5, seed=9)
    plain = [
        *overrides(model, data, out, "recipe=dpo"),
        f"data.reference_cache={out}/reference",
    ]
    watch = [f"data.validation={held}", "validation.every=2", f"guards.prompts={prompts(out)}"]
    return plain, [*watch, "guards.every=4", "guards.max_new_tokens=8"], out


@pytest.fixture(scope="module")
def whole(watched: tuple[list[str], list[str], Path]) -> tuple[list[str], Path]:
    """A watched run that nothing disturbed, logged to Weights & Biases offline, and its words."""
    plain, watch, out = watched
    words = [*plain, *watch, "checkpoint.keep=9", "exp_manager.create_wandb_logger=true"]
    words += ["exp_manager.wandb_logger_kwargs.project=seed", "exp_manager.wandb_logger_kwargs.name=tiny"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        output = finish(start(1, *words, "name=whole"))
    assert "reference log-probs: 5 samples, 5 computed now" in output
    assert "validation after step 2: loss" in output and "answers after step 4: words" in output
    return words, out


@pytest.fixture(scope="module")
def others(watched: tuple[list[str], list[str], Path], whole: tuple[list[str], Path]) -> str:
    """What all other runs said: watched ones in two processes and in one, one that nothing watches, and a share held out.

    They come after `whole`, which computes the reference's log-probs.
    """
    plain, watch, out = watched
    short = [*plain, *watch, "model.lora.dropout=0", "trainer.max_steps=4"]
    short.append("guards.task={_target_: tests.word_task.WordTask}")
    share = [*plain, "data.validation=0.25", "validation.monitor=rewards/accuracies", "trainer.max_steps=2"]
    alone = [[*short, "name=one"], [*plain, "name=plain"], [*share, "name=share"]]
    layouts = [[*short, *layout, f"name={name}"] for name, layout in LAYOUTS.items()]
    return run_scripts(out, [("train.py", call) for call in layouts], 2, [("train.py", call) for call in alone])


@pytest.mark.usefixtures("others")
def test_watching_changes_no_number_of_the_training(whole: tuple[list[str], Path]) -> None:
    """With dropout, whose random numbers would tell."""
    _, out = whole
    assert losses(out, "whole") == losses(out, "plain") and len(losses(out, "plain")) == STEPS
    assert not (out / "plain/best").exists() and not (out / "plain/metrics/validation.jsonl").exists()


def test_a_resumed_run_goes_on_with_validation_best_and_answers(
    whole: tuple[list[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had been killed after step 5: what was recorded later is done again and comes out the same."""
    words, out = whole
    validations, answers = lines(out, "whole", "validation"), lines(out, "whole", "guards")
    assert [line["step"] for line in validations] == [2, 4, 6, 8, 9]
    assert [line["step"] for line in answers] == [0, 4, 8, 9]
    shutil.copytree(out / "whole", out / "again", symlinks=True)
    (out / "again/DONE").unlink()
    for checkpoint in checkpoints_of(out / "again/checkpoints"):
        if read_metadata(checkpoint).step > 4:
            shutil.rmtree(checkpoint)
    monkeypatch.setenv("WANDB_MODE", "offline")
    output = finish(start(1, *words, "name=again"))
    assert "from step 4" in output and "reference log-probs: 5 samples, 0 computed now" in output
    for name in ("validation", "guards", "guard_answers"):
        assert str(lines(out, "again", name)) == str(lines(out, "whole", name)), name  # NaN is no equal of itself
    assert losses(out, "again") == losses(out, "whole")
    same_run(out, "whole", "again")


def same_run(out: Path, first: str, second: str) -> None:
    """Both starts wrote to one run at Weights & Biases, whose id stands in the folder."""
    about = [json.loads((out / name / "wandb.json").read_text()) for name in (first, second)]
    assert about[0] == about[1] and about[0]["project"] == "seed" and len(about[0]["id"]) == 8
    starts = [path.name.rpartition("-")[2] for path in (out / "wandb").glob("offline-run-*")]
    assert starts == [about[0]["id"]] * 2


def test_the_best_checkpoint_opens_by_its_name(whole: tuple[list[str], Path]) -> None:
    _, out = whole
    best = json.loads((out / "whole/metrics/best.json").read_text())
    found = {line["step"]: line["validation/loss"] for line in lines(out, "whole", "validation")}
    assert best["value"] == min(found.values()) == found[best["step"]] and best["monitor"] == "validation/loss"
    metadata = open_source(out / "whole/best").metadata
    assert metadata is not None and metadata.step == best["step"]
    verdict = read_health(out / "whole").verdict
    assert verdict is not None
    rules = {finding.rule for finding in verdict.findings}
    assert {"overfitting", "validation accuracy", "answers"} <= rules


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("name", LAYOUTS)
def test_two_processes_validate_and_answer_as_one_does(watched: tuple[list[str], list[str], Path], name: str) -> None:
    _, _, out = watched
    for ours, theirs in zip(lines(out, name, "validation"), lines(out, "one", "validation"), strict=True):
        # Training itself rounds differently at another layout, four steps of it more than one pass.
        assert ours["validation/loss"] == pytest.approx(theirs["validation/loss"], rel=1e-5)
        assert ours["validation/rewards/accuracies"] == theirs["validation/rewards/accuracies"]
    answers = lines(out, name, "guard_answers")
    assert answers == lines(out, "one", "guard_answers") and {line["step"] for line in answers} == {0, 4}
    first = {line["prompt_id"]: len(line["text"].split()) for line in reversed(answers) if line["step"] == 4}
    expected = (first["picture"] + first["dialogue"]) / 2  # a failed answer is missing, not 0
    assert lines(out, name, "guards")[-1]["guards/word_count"] == expected


def test_a_share_is_held_out_and_never_trained_on(watched: tuple[list[str], list[str], Path], others: str) -> None:
    _, _, out = watched
    assert "9 samples to train on, 3 held out for validation" in others
    plan = [json.loads((out / f"share/metrics/{name}length_plan.json").read_text()) for name in ("", "validation_")]
    assert [one["kept"] for one in plan] == [9, 3]
    assert json.loads((out / "share/metrics/best.json").read_text())["monitor"] == "validation/rewards/accuracies"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.validation=/nowhere.jsonl"], "data.validation=/nowhere.jsonl: /nowhere.jsonl: no such file"),
        (["data.validation={data}"], "is the file that is trained on"),
        (["data.validation={out}/empty.jsonl"], "no record in it"),
        (["data.validation={out}/sft.jsonl"], "holds single answers, but recipe=dpo trains on preference pairs"),
        (["data.validation=0.99"], "leaves nothing to train on"),
        (["data.validation=1.5"], "data.validation=1.5: must be"),
        (["data.validation=0.2", "validation.monitor=rewards/accuracy"], "tells no such metric"),
        (["data.validation=0.2", "validation.monitor=saturated"], "Say validation.mode=min or max"),
        (["guards.prompts=/nowhere.jsonl"], "guards.prompts=/nowhere.jsonl: no such file"),
        (["guards.prompts={out}/empty.jsonl"], "empty.jsonl: the file is empty"),
        (["guards.prompts={prompts}", "guards.max_new_tokens=600"], "lower max_new_tokens"),
        (["task@guards.task=miniature"], "brings no prompts of its own"),
        (["task@guards.task=attributes", "guards.prompts={prompts}"], "asks a judge"),
    ],
)
def test_mistakes_are_named_before_weights_are_read(
    watched: tuple[list[str], list[str], Path], changes: list[str], message: str, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    from hydra import compose, initialize_config_dir

    from nemo_mm_align.cli.entry_point import describe
    from nemo_mm_align.training import trainer

    plain, _, out = watched
    (out / "empty.jsonl").write_text("")
    training_data(out, "sft")
    places = {"data": out / "data/preference.jsonl", "out": out, "prompts": out / "prompts.jsonl"}
    words = [*plain, *(change.format(**places) for change in changes), f"exp_manager.exp_dir={tmp_path}"]
    monkeypatch.setattr(trainer, "build_from", lambda *unused, **also: pytest.fail("weights were read"))
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base=None):
        config = compose("train", overrides=words)
    with pytest.raises(Exception) as caught:
        trainer.train(config)
    assert message in (describe(caught.value) or repr(caught.value))
