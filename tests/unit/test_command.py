"""Entry points: help, and what is said of words on the command line and keys of a user's files that nobody knows."""

import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from nemo_mm_align.cli.entry_point import describe
from nemo_mm_align.core.configuration import keys_of
from nemo_mm_align.model.config import LlavaConfig, ParallelConfig
from nemo_mm_align.model.settings import ModelSettings
from nemo_mm_align.parallel.optim_config import OptimConfig
from nemo_mm_align.recipes.registry import all_recipes
from nemo_mm_align.training.known_settings import check_trainer
from nemo_mm_align.training.sections import TopLevel
from nemo_mm_align.training.settings import read_settings

SCRIPT = """\
from nemo_mm_align.cli.command import command

@command("x")
def main(config):
    print(config.out, config.fruit.name)

if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "conf/fruit").mkdir(parents=True)
    (root / "conf/x.yaml").write_text(
        "defaults: [_self_, {fruit: '???'}]\nout: ???  # where to\nhydra: {run: {dir: .}, output_subdir: null}\n"
    )
    for name in ("apple", "pear"):
        (root / f"conf/fruit/{name}.yaml").write_text(f"name: {name}\nseeds: 5\n")
    (root / "conf/fruit/plum.yaml").write_text("# @package _global_\nfruit: {name: plum, stone: 1}\n")
    (root / "scripts").mkdir()
    (root / "scripts/x.py").write_text(f'"""Eat fruit."""\n\n{SCRIPT}')
    return root / "scripts/x.py"


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script, *arguments], cwd=script.parent, capture_output=True, text=True)


def test_runs_and_shows_its_file_as_help(script: Path) -> None:
    assert run(script, "out=here", "fruit=pear").stdout == "here pear\n"
    shown = run(script, "--help")
    assert shown.returncode == 0 and shown.stdout.startswith("Eat fruit.\n")
    assert "out: ???  # where to\n" in shown.stdout and "fruit: apple, pear, plum\n" in shown.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fruit=pear"], "out has no value. Give it on the command line: out=..."),
        (["outt=a"], "fruit is not chosen. Give fruit=NAME, one of apple, pear, plum."),
        (["fruti=pear"], "fruit is not chosen. Did you mean it by fruti? Give fruit=NAME, one of apple, pear, plum."),
        (["fruit=paer"], "fruit=paer: there is no such option. Did you mean pear? Known here: apple, pear, plum."),
        (
            ["fruit=/mine/pear.yaml"],
            "fruit=/mine/pear.yaml: this takes a name, not a file. For a file of your own, FOLDER/fruit",
        ),
        (["fruit=fig.yaml"], "--config-dir=FOLDER fruit=fig. Known here: apple, pear, plum."),
        (["fruit=pear", "outt=a"], "configuration has no key outt. Did you mean out? Known here: fruit, out."),
        (["fruit=pear", "fruit.sedes=1"], "no key fruit.sedes. Did you mean seeds? Known here: name, seeds."),
        (
            ["fruit=pear", "out=a", "fruit.stone=1"],
            "no key fruit.stone here: it belongs to fruit=plum. Remove it, or choose",
        ),
        (["fruit=pear", "out"], "cannot read 'out' (missing EQUAL at '<EOF>'). Write KEY=VALUE;"),
        (["fruit=pear", "out=a", "+outt=b"], "configuration has no key outt. Did you mean out?"),
        (["--config-name=y"], "Cannot find primary config 'y'."),
    ],
)
def test_refused_words_end_with_one_sentence(script: Path, words: list[str], expected: str) -> None:
    done = run(script, *words)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert expected in done.stderr


def test_a_folder_of_the_users_own(script: Path, tmp_path: Path) -> None:
    """Its options are found wherever on the command line it is named, and listed by --help."""
    (tmp_path / "fruit").mkdir()
    (tmp_path / "fruit/quince.yaml").write_text("name: quince\n")
    words = ["out=here", "fruit=quince"]
    for option in ([f"--config-dir={tmp_path}"], ["--config-dir", str(tmp_path)]):
        for place in range(3):
            assert run(script, *words[:place], *option, *words[place:]).stdout == "here quince\n"
        assert "fruit: apple, pear, plum, quince\n" in run(script, *option, "--help").stdout


def test_an_unknown_key_in_a_file_of_the_user(script: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [/x]\nout: a\nseed: 1\n")
    done = run(script, f"--config-dir={tmp_path}", "--config-name=mine", "fruit=pear")
    assert done.returncode == 2 and "configuration has no key seed." in done.stderr


def test_a_file_that_is_no_yaml_is_named_with_its_line(script: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [/x]\nout: [a\n")
    done = run(script, f"--config-dir={tmp_path}", "--config-name=mine", "fruit=pear")
    assert done.returncode == 2 and f"error: {tmp_path}/mine.yaml:3: not YAML (" in done.stderr


def settings_error(repository: Path, tmp_path: Path, values: dict, recipe: str = "dpo") -> str | None:
    """What is said of a file of the user's own that is chosen as an experiment; None where it is accepted."""
    (tmp_path / "experiment").mkdir(exist_ok=True)
    defaults = {"defaults": [{"override /model": "mini"}, {"override /recipe": recipe}]}
    text = yaml.safe_dump(defaults | {"data": {"train": "a"}, "exp_manager": {"exp_dir": "b"}} | values)
    (tmp_path / "experiment/mine.yaml").write_text(f"# @package _global_\n{text}")
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        config = compose("train", [f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])
    try:
        read_settings(config)
    except ValueError as error:
        return describe(error)
    return None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model": {"lorra": {"rank": 4}}}, "configuration has no key model.lorra. Did you mean lora?"),
        ({"model": {"optim": {"lrr": 1e-4}}}, "configuration has no key model.optim.lrr. Did you mean lr?"),
        ({"recipe": {"betta": 0.3}}, "configuration has no key recipe.betta. Did you mean beta?"),
        ({"data": {"train": "a", "on_fualt": "drop"}}, "no key data.on_fualt. Did you mean on_fault?"),
        ({"checkpoint": {"kep": 2}}, "configuration has no key checkpoint.kep. Did you mean keep?"),
        ({"model": {"language": {"num_layer": 2}}}, "no key model.language.num_layer. Did you mean num_layers?"),
        ({"model": {"optim": {"lr": "fast"}}}, "model.optim.lr='fast': must be a number"),
        ({"model": {"micro_batch_size": 1.5}}, "model.micro_batch_size=1.5: must be a whole number"),
        ({"model": {"lora": True}}, "model.lora=true: is a section; give its keys one by one"),
        ({"model": {"lora": None}, "recipe": {"epochs": 0.5}}, None),
        ({"data": {"train": "a", "on_fault": "ignore"}}, "data.on_fault='ignore': choose from error, drop."),
    ],
)
def test_keys_and_types_of_a_training_file(
    repository: Path, tmp_path: Path, values: dict, expected: str | None
) -> None:
    found = settings_error(repository, tmp_path, values)
    assert found is None if expected is None else expected in str(found)


@pytest.mark.parametrize("key", ["beta", "sft_loss_weight", "shared_prefix", "use_stored_reference"])
@pytest.mark.parametrize("recipe", ["sft", "rejection"])
def test_settings_of_another_recipe_are_refused(repository: Path, tmp_path: Path, recipe: str, key: str) -> None:
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        value = compose("train", ["model=mini", "recipe=dpo"]).recipe[key]
    owners = [f"recipe={name}" for name, spec in all_recipes().items() if key in keys_of(spec.objective)]
    assert settings_error(repository, tmp_path, {"recipe": {key: value}}, recipe) == (
        f"configuration has no key recipe.{key} here: it belongs to {' and '.join(owners)}. Remove it, or choose {owners[0]}."
    )
    assert settings_error(repository, tmp_path, {"recipe": {key: value}}) is None


def test_the_shipped_file_and_the_typed_sections_have_the_same_keys(repository: Path) -> None:
    known = {key for kind in (ModelSettings, ParallelConfig, LlavaConfig) for key in keys_of(kind)}
    sections = {name: kind for name, kind in keys_of(TopLevel).items() if is_dataclass(kind)}
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        for recipe, kind in ((name, spec.objective) for name, spec in all_recipes().items()):
            values = compose("train", ["model=mini", f"recipe={recipe}"])
            assert values.keys() == keys_of(TopLevel).keys() and values.recipe.keys() == keys_of(kind).keys()
            assert values.recipe.name == recipe and values.model.keys() <= known
    assert sections.keys() == {"data", "checkpoint", "faults", "health", "validation", "guards"}
    for name, kind in sections.items():
        assert values[name].keys() == keys_of(kind).keys(), name
    assert values.model.keys() >= keys_of(ModelSettings).keys() | keys_of(ParallelConfig).keys()
    assert values.model.optim.keys() == keys_of(OptimConfig).keys()


def test_arguments_of_lightnings_trainer() -> None:
    import lightning.pytorch as pl

    check_trainer({"num_nodes": None, "limit_train_batches": 3}, pl.Trainer)
    with pytest.raises(ValueError, match=r"no key trainer.limit_train_batch. Did you mean limit_train_batches\?"):
        check_trainer({"limit_train_batch": 3}, pl.Trainer)
    with pytest.raises(ValueError, match="trainer.accelerator cannot be given.*Remove it"):
        check_trainer({"accelerator": "gpu"}, pl.Trainer)
