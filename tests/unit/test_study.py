"""The study: which cells are run and from what, what separates, hypervolume, and a file of figures that is damaged."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from nemo_mm_align.cli.command import with_own_groups
from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.miniature.steps import StepRunner
from nemo_mm_align.miniature.study.compare import Figure, differences_of, paired_p_value, summary_of
from nemo_mm_align.miniature.study.figures import (
    CellFigures,
    Level,
    Offer,
    Spent,
    Steering,
    read_figures,
    write_figures,
)
from nemo_mm_align.miniature.study.hypervolume import Point, hypervolume, pareto_front
from nemo_mm_align.miniature.study.jobs import jobs_of, ready, steps_of
from nemo_mm_align.miniature.study.measure import Measuring, offer_of, unsteered_offer
from nemo_mm_align.miniature.study.outcome import curves_of, figures_for, front_of, pairs_in, results_of
from nemo_mm_align.miniature.study.progress import Progress
from nemo_mm_align.miniature.study.report import write_report
from nemo_mm_align.miniature.study.settings import PaperCurve, StudySettings
from nemo_mm_align.miniature.study.steps import StudySteps
from nemo_mm_align.miniature.study.study import Cell, Study
from nemo_mm_align.miniature.study.tables import paper_curve_table
from nemo_mm_align.recipes.registry import find_recipe

CONF = Path(__file__).parents[2] / "conf"


def study_of(out: Path, *words: str) -> Study:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose("study", with_own_groups([f"out={out}", *words], CONF, "study"))
    return Study(read(StudySettings, OmegaConf.to_container(composed, resolve=True)))


def figures(variant: str, seed: int, score: float = 10.0, **more: Any) -> CellFigures:
    values = {
        "recipe": None,
        "settings_hash": "",
        "settings": {},
        "commit": "c",
        "versions": {},
        "machine": "m",
        "date": "d",
        "measured": {"": {"score": score}},
        "base": {},
        "offer": Offer(quality=score, error=1.5),
        "spent": Spent(seconds=60, cpu_seconds=50),
    }
    return CellFigures(variant=variant, seed=seed, **(values | more))


def finish(study: Study, cell: Cell, **more: Any) -> None:
    path = study.figures(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figures(path, figures(cell.variant, cell.seed, **({"settings_hash": study.hash_of(cell)} | more)))


def test_hypervolume_is_the_staircase_below_the_front() -> None:
    reference = Point(quality=9, error=2)
    front = [Point(10, 0.5), Point(11, 1.0)]
    beaten = [Point(9.5, 0.75), Point(10, 0.5), Point(12, 2.5), Point(8, 0.1)]
    assert pareto_front([*beaten[:2], *front]) == front
    # 1 x (1.0 - 0.5) + 2 x (2 - 1.0)
    assert hypervolume(front, reference) == hypervolume([*beaten, *front], reference) == 2.5
    assert hypervolume([Point(10, 0.5)], reference) == 1.5
    assert hypervolume([], reference) == hypervolume([reference, Point(12, 2.0)], reference) == 0


def test_differences_are_paired_by_seed_and_corrected() -> None:
    assert paired_p_value([1.0, 2.0, 3.0]) == pytest.approx(
        0.0742, abs=1e-4
    )  # t = 2 / (1 / sqrt 3), 2 degrees of freedom
    assert (paired_p_value([1.0]), paired_p_value([0.0, 0.0])) == (None, 1.0)
    assert paired_p_value([0.3 - 0.2, 0.1]) is None, "one step of a figure that counts, the same by chance"
    cells = {
        "base": {1: figures("base", 1, 9.0), 2: figures("base", 2, 9.0), 3: figures("base", 3, 9.0)},
        "good": {1: figures("good", 1, 11.0), 2: figures("good", 2, 11.1), 3: figures("good", 3, 10.9)},
        "noisy": {1: figures("noisy", 1, 10.0), 2: figures("noisy", 2, 12.0), 4: figures("noisy", 4, 50.0)},
    }
    score = Figure("score", "Score", lambda cell: cell.measured[""].get("score"))
    good, noisy = differences_of(cells, [("good", "base"), ("noisy", "base")], [score])
    assert (good.mean, good.seeds, noisy.mean, noisy.seeds) == (pytest.approx(2), 3, pytest.approx(2), 2)
    # t = 2 / (0.1 / sqrt 3) = 34.64; the smaller of two p-values counts twice
    assert good.p_value == pytest.approx(8.32e-4, rel=1e-2) and good.p_corrected == pytest.approx(2 * good.p_value)
    assert good.bounds == pytest.approx((2 - 0.2484, 2 + 0.2484), abs=1e-4) and good.separates
    assert noisy.p_value == noisy.p_corrected == pytest.approx(0.2952, abs=1e-4) and not noisy.separates
    one = summary_of({1: cells["base"][1]}, score.value)
    assert one is not None and (one.mean, one.bounds) == (9.0, None)


def test_a_cell_is_run_where_no_figures_of_its_settings_stand(tmp_path: Path) -> None:
    study = study_of(tmp_path, "only=[base,dpo,attribute_dpo]", "seeds.main=2", "seeds.losses=2", "seeds.ablations=2")
    assert [str(cell) for cell in study.cells][:3] == ["base seed 11", "dpo seed 11", "attribute_dpo seed 11"]
    first, second = Cell("dpo", 11), Cell("dpo", 12)
    finish(study, first)
    finish(study, second, settings_hash="of other settings")
    assert first not in study.unfinished() and second in study.unfinished()
    other = study_of(tmp_path, "only=[dpo]", "+variants.dpo.train=['recipe.beta=0.2']")
    assert first in other.unfinished() and other.hash_of(first) != study.hash_of(first)
    assert {cell.seed for cell in study_of(tmp_path, "groups=[main]", "only=[dpo]").cells} == {11, 12, 13, 14, 15}
    assert not study_of(tmp_path, "groups=[data]", "only=[dpo]").cells


def test_what_cells_share_is_done_once_and_first(tmp_path: Path) -> None:
    study = study_of(
        tmp_path, "only=[dpo,attribute_dpo,steerlm]", *(f"seeds.{name}=1" for name in ("main", "losses", "ablations"))
    )
    jobs = jobs_of(study)
    begun: list[list[str]] = []
    done: set[str] = set()
    while now := [job.name for job in ready(jobs, done, done)]:
        begun.append(now)
        done.update(now)
    assert begun == [
        ["shared"],
        ["round/base/11"],
        ["cell/steerlm/11", "cell/dpo/11"],
        ["round/steerlm/11"],
        ["cell/attribute_dpo/11"],
    ]
    finish(study, Cell("steerlm", 11))
    again = jobs_of(study)
    assert "cell/steerlm/11" not in again and again["round/steerlm/11"].waits == ("round/base/11",)
    steps = StudySteps(study, Measuring(study, StepRunner(tmp_path)).write)
    names = [step.name.removeprefix("seed11_") for step in steps_of(again["round/steerlm/11"], steps)]
    assert names == ["steerlm_build", "steerlm_train", "steerlm_merge", "steerlm_sample", "steerlm_label"]
    made = [path for job in jobs.values() if job.cell for step in steps_of(job, steps) for path in step.outputs]
    assert len(made) == len(set(made))


def test_heavy_files_go_with_a_finished_cell_unless_another_starts_from_it(tmp_path: Path) -> None:
    words = ["only=[dpo,attribute_dpo,steerlm]", *(f"seeds.{name}=1" for name in ("main", "losses", "ablations"))]
    study = study_of(tmp_path, *words)
    dpo, steerlm, after = (Cell(name, 11) for name in ("dpo", "steerlm", "attribute_dpo"))
    for cell in (dpo, steerlm, after):
        study.folder(cell).mkdir(parents=True)
    finish(study, dpo)
    finish(study, steerlm)
    study_of(tmp_path, *words, "keep=true").tidy()
    assert study.folder(dpo).is_dir()
    study.tidy()
    assert [study.folder(cell).is_dir() for cell in (dpo, steerlm, after)] == [False, True, True]
    finish(study, after)
    study.tidy()
    assert study.folder(steerlm).is_dir(), "ablations that are not asked for now start from it, too"
    for name in study.settings.variants:
        if study.settings.start_of(name) == "steerlm":
            finish(study, Cell(name, 11))
    study.tidy()
    assert not study.folder(steerlm).is_dir() and not study.folder(after).is_dir()


def test_a_damaged_file_of_figures_is_named(tmp_path: Path) -> None:
    study = study_of(tmp_path, "only=[dpo]")
    cell = Cell("dpo", 11)
    finish(study, cell)
    path = study.figures(cell)
    assert path == tmp_path / "figures/main/dpo/seed_11.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(
        UserError, match=r"seed_11.json: these are no figures of a cell .*Fetch the file again, or remove it"
    ):
        study.unfinished()
    path.write_text('{"format": 2}')
    with pytest.raises(UserError, match="seed_11.json: these are no figures of a cell"):
        read_figures(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["only=[dpoo]"], "only: there is no 'dpoo'. Did you mean dpo"),
        (["groups=[mein]"], "groups: there is no 'mein'. Did you mean main"),
        (["+variants.mine={groups:[main],recipe:ppo}"], "variants.mine: no recipe is called 'ppo'"),
        (["+variants.mine={groups:[main],recipe:attribute_model}"], "makes a model that rates answers"),
        (["+variants.mine={groups:[rest]}"], "variants.mine.groups: there is no 'rest'"),
        (["~variants.steerlm", "against.main=[base]"], "variants.steerlm_no_replay.of: there is no 'steerlm'"),
    ],
)
def test_what_cannot_be_studied_is_named(tmp_path: Path, words: Sequence[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        study_of(tmp_path, *words)


def test_a_new_line_takes_what_it_is_like_and_the_last_word_stands(tmp_path: Path) -> None:
    entry = (
        "+variants.mine={groups:[losses],recipe:ipo,like:dpo,train:['trainer.max_steps=7'],build:['method.margin=4']}"
    )
    study = study_of(tmp_path, "only=[mine,dpo]", entry)
    mine, dpo = Cell("mine", 11), Cell("dpo", 11)
    assert study.words(mine, "train") == [
        word for word in study.words(dpo, "train") if not word.startswith("trainer.max_steps")
    ] + ["trainer.max_steps=7"]
    assert study.words(mine, "build") == ["method.margin=4"] and study.method(mine) == "preference"
    assert study.settings_of(mine)["recipe"]["recipe"]["name"] == "ipo"


@pytest.mark.slow
def test_every_shipped_variant_can_be_built_and_trained(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    assert len(study.cells) == sum(len(study.settings.seeds_of(name)) for name in study.settings.variants)
    trained, built = set(), set()  # many cells differ in one of the two alone
    for name in study.settings.variants:
        cell, recipe = Cell(name, 11), study.settings.recipe_of(name)
        if recipe is not None:
            trained.add((recipe, *study.words(cell, "train")))
            built.add((study.method(cell), *study.words(cell, "build")))
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base=None):
        for recipe, *words in sorted(trained):
            section = OmegaConf.to_container(compose("train", [f"recipe={recipe}", "model=mini", *words]).recipe)
            assert read(find_recipe(recipe).objective, section, "recipe")
        for method, *words in sorted(built):
            section = compose("build", [f"method={method}", "annotations=a", "out=b", *words]).method
            assert read(BuildSettings, OmegaConf.to_container(section), "method").name == method
    assert len(trained) > 20 and len(built) > 20


def answer(prompt: str, verbosity: float, asked: dict[str, float] | None = None, quality: float = 4) -> ScoredAnswer:
    ratings = dict.fromkeys(("helpfulness", "correctness", "coherence"), quality)
    ratings |= {"complexity": 2.0, "verbosity": verbosity}
    return ScoredAnswer(prompt_id=prompt, ratings=ratings, asked=asked)


def test_what_a_model_offers_to_who_steers(tmp_path: Path) -> None:
    schema = study_of(tmp_path, "only=[dpo]").run.settings.attribute_schema
    # verbosity 1 for 0 to 4: errors 1, 0, 1, 2, 3, mean 1.4; complexity 2: 2, 1, 0, 1, 2, mean 1.2
    plain = unsteered_offer([answer("a", 1.0)], schema)
    assert (plain.quality, plain.error) == (12, pytest.approx(1.3))
    default = {"complexity": 2.0, "verbosity": 2.0}
    swept = [answer("a", value, default | {"verbosity": value}, 4 - value / 2) for value in (0.0, 2.0, 4.0)]
    steered = offer_of(swept, schema)
    # verbosity: error 0, scores 12, 9, 6; complexity: the answer at the defaults alone, error 0, score 9
    assert (steered.quality, steered.error) == (9, 0)


def test_curves_and_front_of_cells(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    cells = {
        "base": {11: figures("base", 11, 9.0, offer=Offer(quality=9, error=1.5))},
        "dpo": {11: figures("dpo", 11, 11.0, offer=Offer(quality=11, error=1.0))},
        "dpo_25": {11: figures("dpo_25", 11, 10.0, offer=Offer(quality=10, error=1.0))},
    }
    curves = curves_of(study, "data", cells)
    assert [(point.share, point.variant, point.score.mean) for point in curves["dpo"]] == [
        (0.25, "dpo_25", 10.0),
        (1.0, "dpo", 11.0),
    ]
    front = front_of(cells)
    assert front is not None and front.hypervolume == front.points["dpo"].alone.mean == 1.0
    less = front.points["dpo_25"]
    assert front.points["dpo"].lost == 0.5 and less.alone.mean == 0.5 and not less.on_front
    more = cells | {"dpo": cells["dpo"] | {12: figures("dpo", 12, 8.0)}, "dpo_25": cells["dpo_25"]}
    assert curves_of(study, "data", more)["dpo"][-1].score.per_seed == {11: 11.0}, "of the seeds that its changes have"
    theirs = PaperCurve(measure="MT-Bench", of="dpo", base=5.99, points=((0.25, 6.39), (1.0, 6.73)))
    text = paper_curve_table(theirs, curves, 9.0, 1.0)
    assert "6.39: -5.1 % (0.54 of the gain) | 10.00: -9.1 % (0.50 of the gain)" in text


def test_a_report_of_cells_says_what_they_change_and_how_far_they_may_differ(tmp_path: Path) -> None:
    study = study_of(tmp_path, "about.data=Shares")
    for seed, score in ((11, 10.0), (12, 10.2)):
        finish(study, Cell("base", seed), measured={"": {"score": 9.0}})
        finish(study, Cell("dpo", seed), recipe="dpo", measured={"": {"score": score}})
        finish(study, Cell("dpo_25", seed), recipe="dpo", measured={"": {"score": score - 0.3 + (seed - 11) / 10}})
    results = results_of(study)
    base, dpo = (results.groups["main"].variants[name].figures["score"] for name in ("base", "dpo"))
    assert base.bounds is None, "greedy answers, the same for all seeds"
    assert dpo.bounds == pytest.approx((10.1 - 1.2706, 10.1 + 1.2706), abs=1e-4)  # 12.706 x 0.1, one degree of freedom
    assert [*results.groups["data"].variants] == ["dpo", "dpo_25"], "with what it is a change of"
    assert results.front is not None and "dpo_25" not in results.front.points
    text = write_report(study).read_text()
    assert "## data\n\nShares\n" in text and "- dpo_25: `recipe=dpo method.fraction=0.25`" in text
    # the differences are -0.3 and -0.2: -0.25 -/+ 12.706 x 0.05
    assert "Score (of 12): 0 of 1 separate. The intervals of the other 1 lie within \\[-0.89, +0.39\\]." in text
    lines = [*csv.DictReader((study.out / "cells.csv").read_text().splitlines())]
    assert [(line["variant"], line["seed"], line["score"]) for line in lines[:4]] == [
        ("base", "11", "9"), ("base", "12", "9"), ("dpo", "11", "10"), ("dpo", "12", "10.2"),
    ]  # fmt: skip
    assert lines[2]["recipe"] == "dpo" and lines[2]["cpu_seconds"] == "50.0" and lines[2]["text_score"] == ""
    assert lines[2]["settings_hash"] == study.hash_of(Cell("dpo", 11)) and "spearman.verbosity" in lines[0]


def test_steering_figures_are_of_the_matters_of_taste(tmp_path: Path) -> None:
    schema = study_of(tmp_path, "only=[dpo]").run.settings.attribute_schema

    def steered(score: float, talk: float) -> Steering:
        level = Level(asked=0, judged=0, score=score, words=5)
        return Steering(spearman=1, mae=0, cross_talk={"complexity": -talk}, levels=[level])

    cell = figures("steerlm_paper", 11, steering={"helpfulness": steered(2.0, 3.0), "verbosity": steered(8.0, 0.5)})
    found = {one.name: one.value(cell) for one in figures_for(schema)}
    assert (found["lowest"], found["cross_talk"], found["spearman.complexity"]) == (8.0, 0.5, None)


def test_rates_are_searched_for_on_the_prompts_that_settings_are_chosen_on(tmp_path: Path) -> None:
    study = study_of(tmp_path, "search=rates")
    assert study.run.settings.evaluate_on == "dev" and {cell.seed for cell in study.cells} == {11}
    names = {cell.variant for cell in study.cells}
    for cell in (one for one in study.cells if study.variant(one).of):
        of = study.variant(cell).of or ""
        changed = set(study.words(cell, "train")) ^ set(study.words(Cell(of, 11), "train"))
        assert of in names and {word.partition("=")[0] for word in changed} == {"model.optim.lr"}, cell
        assert study.method(cell) == study.method(Cell(of, 11))


def test_who_is_compared_with_whom(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    main = pairs_in(study, "main")
    assert [pair for pair in main if pair[0] in ("base", "sft", "dpo", "steerlm")] == [
        ("sft", "base"),
        ("sft", "dpo"),
        ("sft", "steerlm"),
        ("steerlm", "base"),
        ("steerlm", "dpo"),
        ("dpo", "base"),
    ]
    assert pairs_in(study, "data")[0] == ("dpo_25", "dpo")
    losses = pairs_in(study, "losses")
    assert losses[0] == ("ipo", "dpo") and ("kto_answers", "kto") in losses and len(losses) == 17


def test_what_is_left_is_estimated_by_kind(tmp_path: Path) -> None:
    study = study_of(tmp_path, "only=[dpo,sft]", "seeds.main=2", "seeds.losses=2", "seeds.ablations=2")
    jobs = {name: job for name, job in jobs_of(study).items() if job.cell}
    lines: list[str] = []
    progress = Progress(jobs, 2, {"preference": [100.0, 140.0], "sft": [60.0]}, lines.append)
    assert progress.seconds_left() == (2 * 120 + 2 * 60) / 2
    job = jobs["cell/sft/11"]
    progress.begin(job)
    progress.failed(job, tmp_path / "log", "why")
    assert progress.seconds_left() == (2 * 120 + 60) / 2
    assert lines[1] == f"[1/4] sft seed 11 failed, the others go on; its log is {tmp_path / 'log'}:\nwhy"
