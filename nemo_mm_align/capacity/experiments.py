"""Writes conf/experiment/*.yaml: complete runs, their layouts chosen by `suggest`.

The files are generated, so that none of them can drift from the others; a test writes them again and compares.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from nemo_mm_align.capacity.gpus import REFERENCE_GPU, find_gpu
from nemo_mm_align.capacity.job import TrainingJob, read_job
from nemo_mm_align.capacity.suggest import describe, suggest
from nemo_mm_align.recipes.registry import all_recipes, paper_recipes
from nemo_mm_align.recipes.spec import RecipeSpec

MODELS = {"llava15_7b": "LLaVA-1.5-7B", "llava15_13b": "LLaVA-1.5-13B"}
CLUSTERS = ((1, 8), (2, 8), (8, 8))
PAPER_GPUS = {8: "", 4: "_1x4", 2: "_1x2"}
"""GPUs of the one node that the paper's experiments are for, and how their names end."""
PRECISIONS = {"": "bf16", "_fp8": "fp8_tensorwise"}

Compose = Callable[[list[str]], Mapping[str, Any]]
"""Overrides of conf/train.yaml -> the composed configuration as plain dictionaries."""

_MINI_LAYOUTS = {
    2: (
        {"tensor_model_parallel_size": 2, "sequence_parallel": True},
        "TP2 with sequence parallelism, as on a GPU node",
    ),
    4: (
        {
            "tensor_model_parallel_size": 2,
            "sequence_parallel": True,
            "pipeline_model_parallel_size": 2,
            "num_layers_in_first_pipeline_stage": 1,
        },
        "TP2 x PP2, one decoder layer beside the tower and two on the last stage",
    ),
}
_SECTIONS = ("trainer", "exp_manager", "data", "recipe", "template", "model", "checkpoint")
# Mandatory, although Hydra's merging keeps conf/train.yaml's null here: training itself asks for one of the two.
_WEIGHTS = (
    "hf_path: ???           # a Hugging Face folder; or give model.checkpoint, a complete checkpoint of this package"
)


def _made_by() -> str:
    return (
        f"# Written by `python scripts/estimate.py model=mini recipe={next(iter(paper_recipes()))} "
        "experiments=conf/experiment`: change\n"
        "# nemo_mm_align/capacity/experiments.py and write again, or override values on the command line.\n"
    )


def _value(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False).strip()
    return text.removesuffix("...").strip().replace("'???'", "???")


def _section(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"{name}:"]
    for key, value in values.items():
        if isinstance(value, Mapping) and key == "optim":
            lines += [f"  {key}:", *(f"    {inner}: {_value(item)}" for inner, item in value.items())]
        else:
            lines.append(f"  {key}: {_value(value)}")
    return "\n".join(lines)


def _text(name: str, head: str, job: Mapping[str, Any]) -> str:
    sections = [_section(key, job[key]) for key in _SECTIONS if key in job]
    defaults = "defaults:\n" + "".join(
        f"  - override /{group}: {job[group + '_group']}\n" for group in ("model", "recipe")
    )
    top = f"name: {name}\nprecision: {job['precision']}"
    return f"# @package _global_\n{head}{_made_by()}" + "\n\n".join([defaults.rstrip(), top, *sections]) + "\n"


def _layout(job: TrainingJob) -> dict[str, Any]:
    return {
        **asdict(job.parallel),
        "recompute": job.engine.recompute,
        "micro_batch_size": job.micro_batch_size,
        "global_batch_size": job.global_batch_size,
    }


def _with_data(text: str, recipe: RecipeSpec) -> str:
    """The text with a word on what the training data are."""
    made_by = f"{recipe.data}: scripts/build.py method={recipe.build_method}"
    return text.replace("train: ???", f"train: ???             # {made_by}")


def _cluster_experiment(
    recipe: RecipeSpec, model: str, base: Mapping[str, Any], job: TrainingJob, name: str, further: str = ""
) -> str:
    chosen = suggest(job, find_gpu(REFERENCE_GPU))
    found, values = chosen.job, base["model"]
    head = (
        f"# {recipe.label} of {MODELS[model]} with LoRA on {job.nodes} x {job.gpus_per_node} H100 80 GB, "
        f"{job.engine.precision}; hyper-parameters of the paper (arXiv 2402.10884).\n"
        f"# scripts/train.py experiment={name} model.hf_path=... data.train=... exp_manager.exp_dir=...\n"
        f"{further}# Layout: {describe(found)}.\n# Why: {chosen.reason}.\n"
    )
    optim = {key: values["optim"][key] for key in ("lr", "projector_lr", "weight_decay", "schedule", "warmup_ratio")}
    text = _text(
        name.replace("/", "_"),
        head,
        {
            "model_group": model,
            "recipe_group": recipe.name,
            "precision": job.engine.precision,
            "trainer": {"num_nodes": job.nodes, "devices": job.gpus_per_node},
            "exp_manager": {"exp_dir": "???"},
            "data": {"train": "???"},
            "recipe": {key: value for key, value in base["recipe"].items() if key != "name"},
            "model": {
                "hf_path": "???",
                **_layout(found),
                "max_length": values["max_length"],
                "lora": values["lora"],
                "optim": {**optim, "use_distributed_optimizer": found.distributed_optimizer},
            },
        },
    ).replace("hf_path: ???", _WEIGHTS)
    return _with_data(text, recipe)


def cluster_experiments(compose: Compose) -> Iterator[tuple[str, str]]:
    """Yield (name, text) for every recipe, model, cluster and precision."""
    for recipe in paper_recipes().values():
        for model in MODELS:
            base = compose([f"recipe={recipe.name}", f"model={model}"])
            for nodes, gpus in CLUSTERS:
                for suffix, precision in PRECISIONS.items():
                    job = read_job(base, nodes, gpus)
                    job = replace(job, engine=replace(job.engine, precision=precision))
                    name = f"{recipe.name}_{model}_{nodes}x{gpus}{suffix}"
                    yield name, _cluster_experiment(recipe, model, base, job, name)


def paper_experiments(compose: Compose) -> Iterator[tuple[str, str]]:
    """Yield (name, text) for every training of the paper, on one node: ``paper/NAME``, see docs/reproduce.md."""
    for recipe in all_recipes().values():
        for model, note in recipe.paper_models.items():
            base = compose([f"recipe={recipe.name}", f"model={model}"])
            for gpus, ending in PAPER_GPUS.items():
                name = f"paper/{_paper_name(recipe, model)}{ending}"
                lines = [
                    f"The paper's chain: scripts/launch.py chain=paper experiment={name} ... (docs/reproduce.md)",
                    note,
                ]
                further = "".join(
                    f"# {line}\n" for text in lines for line in textwrap.wrap(text, 125, break_long_words=False)
                )
                yield name, _cluster_experiment(recipe, model, base, read_job(base, 1, gpus), name, further)


def _paper_name(recipe: RecipeSpec, model: str) -> str:
    """The method's name, and the model's size where it is not that of all its trainings."""
    size = model.rpartition("_")[2]
    first = next(iter(recipe.paper_models))
    return recipe.name.removesuffix("_paper") + ("" if model == first else f"_{size}")


def _miniature_settings(recipe: str, miniature: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides of conf/miniature.yaml as nested values."""
    settings = OmegaConf.from_dotlist([*miniature["train"]["all"], *miniature["train"][recipe]])
    values: dict[str, Any] = OmegaConf.to_container(settings)  # type: ignore[assignment]
    return values


def miniature_experiments(miniature: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, text) for every recipe of the miniature on 2 and 4 processes.

    Args:
        miniature: conf/miniature.yaml, whose settings were chosen on the miniature's development set.
    """
    for recipe in paper_recipes().values():
        for processes, (layout, why) in _MINI_LAYOUTS.items():
            name, own = f"{recipe.name}_mini_1x{processes}", _miniature_settings(recipe.name, miniature)
            head = (
                f"# {recipe.label} of the miniature with LoRA on {processes} processes of a CPU, from the base that comes with "
                f"the package.\n# torchrun --nproc-per-node {processes} scripts/train.py experiment={name} data.train=... "
                f"exp_manager.exp_dir=...\n# Layout: {why}.\n"
            )
            model = {"hf_path": "nemo_mm_align/miniature/base", **layout, **own["model"]}
            yield (
                name,
                _with_data(
                    _text(
                        name,
                        head,
                        {
                            "model_group": "mini",
                            "recipe_group": recipe.name,
                            "precision": "fp32",
                            "trainer": {"num_nodes": 1, "devices": processes, **own["trainer"]},
                            "exp_manager": {"exp_dir": "???", **own["exp_manager"]},
                            "data": {"train": "???"},
                            "recipe": own["recipe"],
                            "template": {"system": ""},  # the miniature's tokenizer does not know Vicuna's words
                            "model": model,
                            "checkpoint": own["checkpoint"],
                        },
                    ),
                    recipe,
                ),
            )


def all_experiments(compose: Compose, miniature: Mapping[str, Any]) -> dict[str, str]:
    """Every experiment file's text by name."""
    return (
        dict(cluster_experiments(compose)) | dict(miniature_experiments(miniature)) | dict(paper_experiments(compose))
    )


def write_experiments(folder: Path, texts: Mapping[str, str]) -> None:
    """Write the files; those of earlier generations that are no longer wanted are left to version control."""
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
