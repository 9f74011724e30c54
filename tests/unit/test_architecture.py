"""The rules that keep parts apart: imports point down, and labelling and evaluation run without the engine."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_mm_align.recipes.registry import all_recipes

PACKAGE = "nemo_mm_align"
ROOT = Path(__file__).resolve().parents[2] / PACKAGE
LAYERS = (
    {"core"},
    {"schema"},
    {"cli"},
    {"llm", "model", "parallel", "reporting"},
    {"datasets", "callbacks"},
    {"objectives"},
    {"recipes"},
    {"capacity", "workflow"},
    {"labeling", "training", "inference", "evaluation", "miniature", "launch", "preflight"},
    {"serving"},
    {"benchmarks", "verify"},
)
"""From low to high. Above all stands the package's own folder: what starts it, and names for code around it."""

MODULES = sorted(ROOT.rglob("*.py"))


def layer(module: str) -> int:
    if "." not in module:
        return 0  # its version
    folder = module.split(".")[1]
    return next((height for height, names in enumerate(LAYERS, start=1) if folder in names), len(LAYERS) + 1)


@functools.cache
def imports(path: Path) -> frozenset[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return frozenset(found)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own = layer(f"{PACKAGE}." + ".".join(path.relative_to(ROOT).with_suffix("").parts))
    higher = {name for name in imports(path) if name.split(".")[0] == PACKAGE and layer(name) > own}
    assert not higher, f"{path.relative_to(ROOT)} imports {sorted(higher)}, which stand above it"


def test_every_folder_has_its_layer():
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert folders == set().union(*LAYERS)


def test_recipes_are_named_by_themselves_alone():
    """A recipe is one file: whoever wants something of recipes asks the registry. Build methods have names of their own."""
    names = re.compile(rf"\b({'|'.join(all_recipes())})\b")
    naming = {str(path.relative_to(ROOT)) for path in MODULES if names.search(path.read_text(encoding="utf-8"))}
    # A recipe of one loss is called as the loss.
    elsewhere = {
        path for path in naming if not path.startswith(("recipes/", "objectives/pair_losses/", "objectives/kto"))
    }
    assert elsewhere == {
        "datasets/build_settings.py",
        "benchmarks/recipes.py",
        *("labeling/judges/model_head.py", "evaluation/results.py"),  # a judge and a key of that name
        "serving/rating_routes.py",  # a kind of model
        *(  # repositories, folders and files of others are called like recipes
            f"datasets/prepare/{name}.py"
            for name in ("helpsteer", "helpsteer2_preference", "mllm_answers", "mllm_dpo", "questions", "steerlm_json")
        ),
        *(
            f"miniature/{name}.py"
            for name in ("attribute_model", "base_steps", "folders", "outcome", "seed_steps", "settings")
        ),
    }


@pytest.mark.parametrize(("folder", "other"), [("labeling", "evaluation"), ("evaluation", "labeling")])
def test_labelling_and_evaluation_do_not_know_each_other(folder, other):
    modules = {path for path in MODULES if path.is_relative_to(ROOT / folder)}
    found = {name for path in modules for name in imports(path) if name.startswith(f"{PACKAGE}.{other}")}
    assert modules and not found, f"{folder} imports {sorted(found)}; what both need belongs below them"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_trainer_glue_knows_lightning_and_nemo(path):
    frameworks = {name for name in imports(path) if name.split(".")[0] in ("nemo", "lightning", "pytorch_lightning")}
    place = str(path.relative_to(ROOT))
    glue = place == "parallel/strategy.py" or place.startswith(("callbacks/", "training/trainer"))
    assert glue or not frameworks, f"{place} imports {sorted(frameworks)}"


@pytest.mark.parametrize(
    "module",
    [
        "datasets.prepare.stage",
        "evaluation.stage",
        "labeling.stage",
        "launch.launch",
        "model.config",
        "recipes.registry",
        "training.settings",
        "attributes",
        "records",
        "schema.images",
        "schema.prompts",
    ],
)
def test_runs_without_the_engine(module):
    """On a laptop these parts need neither megatron-core nor NeMo."""
    code = f"import sys, {PACKAGE}.{module}; print(*sorted({{'megatron', 'nemo', 'lightning'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.parametrize("module", ["recipes.registry", "training.settings", "capacity.job", "evaluation.results"])
def test_facts_of_recipes_need_no_torch(module):
    code = f"import sys, {PACKAGE}.{module} as m; getattr(m, 'all_recipes', list)(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
