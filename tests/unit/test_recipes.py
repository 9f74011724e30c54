"""The registry of recipes: what it finds, what it refuses, where default values stand."""

from __future__ import annotations

import dataclasses
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nemo_mm_align.core.configuration import keys_of, read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.datasets.kinds import ANSWERS, ATTRIBUTED_ANSWERS, PAIRS, RATED_ANSWERS, check_kind
from nemo_mm_align.evaluation.plots import BASE_COLOUR, SPARE_COLOURS, colour_of
from nemo_mm_align.evaluation.wording import label_of
from nemo_mm_align.miniature.folders import MiniatureRun
from nemo_mm_align.miniature.pipeline import steps_of
from nemo_mm_align.miniature.settings import MiniatureSettings
from nemo_mm_align.miniature.steps import Step
from nemo_mm_align.objectives.kto import KahnemanTversky
from nemo_mm_align.objectives.pair_losses import PAIR_LOSSES
from nemo_mm_align.objectives.preference import PairLogRatios
from nemo_mm_align.recipes import registry
from nemo_mm_align.recipes.registry import all_recipes, find_recipe, paper_recipes
from nemo_mm_align.schema.examples import PreferenceExample, RatedAnswer, RatedAnswers, TrainingExample
from nemo_mm_align.schema.records import Turn
from nemo_mm_align.training.sections import TopLevel
from tests.own_recipe.attribute_regression import RECIPE as OWN

KTO_LOSSES = typing.get_args(typing.get_type_hints(KahnemanTversky)["loss_type"])
PAPER = ["sft", "rejection", "steerlm", "dpo"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[typing.Callable[[str], None]]:
    """Installs a package whose entry point is given; its module holds a recipe called as one of ours, and a number."""
    (tmp_path / "somebodys.py").write_text("from nemo_mm_align.recipes.sft import RECIPE\nNUMBER = 5\n")

    (tmp_path / "broken.py").write_text("RECIPE = (\n")

    def install(point: str) -> None:
        folder = tmp_path / "somebodys-2.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 2.0\n")
        (folder / "entry_points.txt").write_text(f"[{registry.GROUP}]\nx = {point}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        all_recipes.cache_clear()

    yield install
    monkeypatch.undo()
    all_recipes.cache_clear()


def test_those_of_the_paper_come_first_and_in_its_order() -> None:
    assert list(all_recipes())[:5] == ["sft", "rejection", "steerlm", "steerlm_paper", "dpo"]
    assert list(paper_recipes()) == PAPER
    assert len({spec.label for spec in all_recipes().values()}) == len(all_recipes())
    colours = [BASE_COLOUR, *SPARE_COLOURS, *(spec.colour for spec in all_recipes().values())]
    assert len(set(colours)) == len(colours) and all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (
            "somebodys:RECIPE",
            r"somebodys \(somebodys:RECIPE\): a recipe called sft is there already; give it another name",
        ),
        ("somebodys:NUMBER", r"somebodys \(somebodys:NUMBER\): is a int, not a RecipeSpec\. Mend or remove it"),
        (
            "somebodys:missing",
            r"somebodys \(somebodys:missing\): its recipe cannot be loaded: AttributeError: .*missing",
        ),
        (
            "broken:RECIPE",
            r"somebodys \(broken:RECIPE\): its recipe cannot be loaded: SyntaxError: .*Mend or remove it",
        ),
        (
            "nowhere:RECIPE",
            r"somebodys \(nowhere:RECIPE\): its recipe cannot be loaded: ModuleNotFoundError: No module named 'nowhere'",
        ),
    ],
)
def test_a_package_that_brings_no_usable_recipe_is_named(
    installed: typing.Callable[[str], None], point: str, message: str
) -> None:
    installed(point)
    with pytest.raises(UserError, match=message):
        all_recipes()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("label='Mine'", r"missing 2 required positional arguments: .*'colour'"),
        (
            "label='Mine', colour='#123456', build_method='preferense'",
            "build_method='preferense': choose from sft, rejection",
        ),
        ("label='Mine', colour='#123456', build_method='sft'", "its objective Lacking lacks loss. Write it"),
    ],
)
def test_a_recipe_that_cannot_be_trained_by_is_named(
    installed: typing.Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: str,
    message: str,
) -> None:
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(
        "from nemo_mm_align.objectives.objective import Objective\n"
        "from nemo_mm_align.recipes.sft import RECIPE as SFT\nfrom nemo_mm_align.recipes.spec import RecipeSpec\n"
        "class Lacking(Objective): pass\n"
        f"RECIPE = RecipeSpec(name='mine', objective=Lacking, samples=SFT.samples, data='d', **dict({changed}))\n"
    )
    installed("mine:RECIPE")
    with pytest.raises(UserError, match=rf"somebodys \(mine:RECIPE\): .*{message}"):
        all_recipes()


@pytest.mark.parametrize("name", ["ppo", None, 5, ["sft"]])
def test_an_unknown_name_is_answered_with_those_that_are_known(name: Any) -> None:
    with pytest.raises(UserError, match="choose from sft, rejection, steerlm, steerlm_paper, dpo"):
        find_recipe(name)


def test_default_values_of_a_recipe_stand_in_its_file_alone(repository: Path) -> None:
    files = {path.stem for path in (repository / "conf/recipe").glob("*.yaml")}
    assert files == all_recipes().keys()
    for name, spec in all_recipes().items():
        values = yaml.safe_load((repository / f"conf/recipe/{name}.yaml").read_text())["recipe"]
        assert values.keys() == keys_of(spec.objective).keys() and values["name"] == name
        assert all(field.default is dataclasses.MISSING for field in dataclasses.fields(spec.objective))
        assert dataclasses.asdict(spec.configured()) == values


def test_where_a_type_has_a_default_the_file_has_the_same(repository: Path) -> None:
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        values = compose("train", ["model=mini", "recipe=sft"])
    for name, kind in keys_of(TopLevel).items():
        if dataclasses.is_dataclass(kind):
            defaults = {field.name: field.default for field in dataclasses.fields(kind)}
            told = {key: value for key, value in defaults.items() if value is not dataclasses.MISSING}
            assert {key: values[name][key] for key in told} == told, name


def test_the_example_of_the_documentation_works(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (repository / "docs/recipes.md").read_text()
    code, settings = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "yaml"))
    assert code is not None and settings is not None
    (tmp_path / "exponential.py").write_text(code[1])
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/exponential.yaml").write_text(settings[1])
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        config = compose("train", [f"hydra.searchpath=[file://{tmp_path}]", "recipe=exponential", "model=mini"])
    assert config.recipe.name == config.name == "exponential" and config.model.max_length == 3000
    monkeypatch.syspath_prepend(str(tmp_path))
    import exponential  # type: ignore[import-not-found]

    spec = dataclasses.replace(exponential.RECIPE, conf=tmp_path)
    ratios = PairLogRatios(torch.tensor([3.0, 20.0]), torch.tensor([1.0, -5.0]))
    torch.testing.assert_close(spec.configured(beta=0.2).pair_losses(ratios), torch.tensor([-0.4, -5.0]).exp())
    with pytest.raises(UserError, match="configuration has no key recipe.gamma"):
        spec.configured(gamma=1)


def miniature(repository: Path, *methods: str, overrides: Sequence[str] = ()) -> MiniatureRun:
    words = [f"methods=[{','.join(methods)}]", *overrides]
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        values = OmegaConf.to_container(compose("miniature", overrides=words), resolve=True)
    return MiniatureRun(read(MiniatureSettings, values))


def test_the_miniature_takes_every_recipe_and_shares_no_file_between_two(repository: Path) -> None:
    speaking = [name for name, spec in all_recipes().items() if not spec.rates]
    steps = {step.name: step for step in steps_of(miniature(repository, *speaking))}
    made = [output for step in steps.values() for output in step.outputs]
    assert len(set(made)) == len(made)
    names = {name: steps[f"seed0_build_{name}"].outputs[0].name for name in speaking}
    assert names["dpo"] == "preference.jsonl" and names["ipo"] == "preference_ipo.jsonl"
    seeded = [name for name in speaking if "method.seed=0" in steps[f"seed0_build_{name}"].command]
    drawn = ("rejection", "steerlm", "preference", "attribute_preference", "steerlm2")
    assert seeded == [name for name in speaking if all_recipes()[name].build_method in drawn]
    assert names["steerlm2"] == "steerlm2.jsonl"
    alike = [words_of(steps[f"seed0_build_{name}"], "annotations=") for name in ("attribute_dpo", "steerlm2")]
    assert alike[0] == alike[1], "both learn of the same answers of the model that they go on from"


def words_of(step: Step, *beginnings: str) -> list[str]:
    command = () if callable(step.command) else step.command
    return [word for word in command if word.startswith(beginnings)]


def test_steered_models_of_the_miniature_answer_several_requests(repository: Path) -> None:
    run = miniature(repository, "dpo", "steerlm")
    asked = {
        step.name.removeprefix("seed0_answers_"): words_of(step, "ask_defaults", "attributes.")
        for step in steps_of(run)
        if "_answers_" in step.name
    }
    assert asked == {
        "base": [],
        "dpo": [],
        "steerlm": ["ask_defaults=true"],
        "steerlm_unasked": [],
        "steerlm_brief": ["attributes.complexity=0", "attributes.verbosity=1"],
    }
    assert [label_of(name) for name in asked][2:] == [
        "SteerLM",
        "SteerLM (nothing asked)",
        "SteerLM (asked to be brief)",
    ]
    assert len({colour_of(name, list(asked)) for name in asked if name.startswith("steerlm")}) == 1
    assert colour_of("mine_unasked", ["base", "mine_unasked"]) == colour_of("mine", ["base", "mine"])
    assert "steerlm_brief" not in miniature(repository, "steerlm", overrides=["brief=null"]).answering
    with pytest.raises(UserError, match="verbosity=9 is outside 0 to 4"):
        miniature(repository, "steerlm", overrides=["brief.verbosity=9"])


def test_parts_of_the_miniature_are_tensor_parallel_as_named(repository: Path) -> None:
    def sizes(*overrides: str) -> dict[str, list[str]]:
        steps = steps_of(miniature(repository, "sft", "dpo", overrides=overrides))
        found = {step.name: words_of(step, "model.tensor_", "tensor_") for step in steps}
        return {name: [word[-1] for word in words] for name, words in found.items() if words}

    shipped = sizes()
    assert {name for name, size in shipped.items() if size == ["2"]} == {"seed0_sft", "seed0_dpo"}
    assert shipped["seed0_sample"] == shipped["seed0_attribute_model"] == ["1"]
    named = sizes("tensor_parallel=[attribute_model,answers]")
    assert {name for name, size in named.items() if size == ["1"]} == {"seed0_sft", "seed0_dpo"}
    assert set(map(tuple, sizes("processes=1", "tensor_model_parallel_size=1").values())) == {("1",)}
    with pytest.raises(UserError, match="there is no part 'sampling': choose from sft, rejection"):
        sizes("tensor_parallel=[sampling]")


def test_a_later_round_of_the_miniature_samples_at_a_temperature_of_its_own(repository: Path) -> None:
    run = miniature(repository, "steerlm", "attribute_dpo", overrides=["sampling.later_temperature=1.3"])
    found = {step.name: words_of(step, "temperature=") for step in steps_of(run) if "sample" in step.name}
    assert found["seed0_sample"] == found["seed0_sample_heldout"] == ["temperature=0.7"]
    assert found["seed0_sample_steerlm"] == ["temperature=1.3"]


def test_the_miniature_refuses_what_it_could_not_go_through_with(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {**all_recipes(), OWN.name: OWN, "rates": dataclasses.replace(OWN, name="rates", conf=CONF)}
    monkeypatch.setattr("nemo_mm_align.miniature.settings.all_recipes", lambda: known)
    for name, message in (
        ("ppo", "no recipe is called 'ppo': choose from sft, rejection"),
        (OWN.name, "attribute_regression comes from another package; the miniature trains what conf/recipe holds"),
        ("rates", "rates makes a model that rates answers; the miniature asks its models for some"),
    ):
        with pytest.raises(UserError, match=f"methods: {message}"):
            miniature(repository, "sft", name)


def answer(**more: Any) -> TrainingExample:
    turns = (Turn(role="user", content="q"), Turn(role="assistant", content="a"))
    return TrainingExample(id="x", turns=turns, **more)


def test_data_of_another_kind_are_refused_whichever_line_they_stand_in() -> None:
    pair = PreferenceExample(id="p", turns=(Turn(role="user", content="q"),), chosen="a", rejected="b")
    check_kind(PAIRS, [pair], "d.jsonl", "dpo", "preference")
    check_kind(ANSWERS, [answer()], "d.jsonl", "sft", "sft")
    rated = RatedAnswers(id="r", turns=pair.turns, answers=(RatedAnswer(text="a", attributes={"verbosity": 1}),))
    check_kind(RATED_ANSWERS, [rated], "d.jsonl", "attribute_model", "attribute_model")
    asking = answer(attributes={"verbosity": 1.0})
    check_kind(ATTRIBUTED_ANSWERS, [asking, answer()], "d.jsonl", "steerlm", "steerlm")
    for kind, examples, recipe, message in (
        (
            PAIRS,
            [pair, answer()],
            "dpo",
            r"holds single answers, but recipe=dpo trains on preference pairs \(chosen and",
        ),
        (ANSWERS, [pair], "sft", "holds preference pairs, but recipe=sft trains on single answers"),
        (ANSWERS, [rated], "sft", "holds rated answers, but recipe=sft trains on single answers"),
        (RATED_ANSWERS, [pair], "x", "holds preference pairs, but recipe=x trains on rated answers"),
        (
            ATTRIBUTED_ANSWERS,
            [answer()],
            "steerlm",
            "recipe=steerlm needs examples with attributes; none of them has any. Build",
        ),
    ):
        with pytest.raises(UserError, match=f"d.jsonl: {message}"):
            check_kind(kind, examples, "d.jsonl", recipe, "steerlm")


def test_the_page_of_losses_has_every_recipe_and_loss_with_its_settings() -> None:
    page = (CONF.parent / "docs/losses.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (.*?) \| (.*?) \| .* \| (yes|no) \| (.*?) \| [^|]*\|$", page, re.MULTILINE)
    names = [(re.findall("`(.+?)`", loss), re.findall("`(.+?)`", recipes)) for loss, recipes, _, _ in table]
    assert {recipe for _, recipes in names for recipe in recipes} == set(all_recipes())
    assert {*PAIR_LOSSES, *KTO_LOSSES} <= {name for both in names for part in both for name in part}
    for (losses, recipes), (_, _, reference, settings) in zip(names, table, strict=True):
        known = {
            field.name for name in losses if name in PAIR_LOSSES for field in dataclasses.fields(PAIR_LOSSES[name])
        }
        for recipe in recipes:
            objective = all_recipes()[recipe].objective
            known |= {field.name for field in dataclasses.fields(objective)}
            assert losses == ["sft"] or objective.needs_reference == (reference == "yes"), recipe
        assert {*re.findall("`(.+?)`", settings)} <= known, (losses, recipes)
