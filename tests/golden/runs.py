"""The training runs whose losses are pinned: settings that maker and tests share; imports nothing of the package."""

from __future__ import annotations

import json
from pathlib import Path

GOLDEN = Path(__file__).resolve().parent / "files"
STEPS = 5
"""Of 4 samples each: 12 samples are seen once, and then in another order."""

LAYOUTS = {
    "one": (1, []),
    "tp2": (2, ["model.tensor_model_parallel_size=2", "model.sequence_parallel=true"]),
    "pp2": (2, ["model.pipeline_model_parallel_size=2"]),
}
"""Name -> number of processes, overrides."""

RECIPES = {
    "sft": ("sft", ["model.lora=null", "model.train.vision=true", "model.optim.lr=2e-3"]),
    "rejection": ("sft", ["model.lora.dropout=0.1"]),
    "steerlm_paper": ("steerlm", []),
    "dpo": ("preference", ["recipe.sft_loss_weight=0.05"]),
}
"""Recipe -> kind of data, overrides: one trains everything, the others adapters, one of them with dropout."""

UNPROBED = "health.image_probe=0"
"""What images matter to a run is tests/parallel/test_health.py's to look at; it took a third of these runs' time."""

NUMBERS = ("loss", "gradient_norm", "learning_rate")
BOUNDS = {"loss": 1e-5, "gradient_norm": 1e-4, "learning_rate": 1e-12}
"""Relative. README.md says how far instruction sets lie apart, and a change of 1 % in beta."""


def overrides(recipe: str, layout: str, model: Path | str, data: Path | str, out: Path | str) -> list[str]:
    """Words of `scripts/train.py` for a run of `STEPS` steps, which lies in ``out/RECIPE_LAYOUT``."""
    kind, own = RECIPES[recipe]
    lora = ["model.lora.rank=4", "model.lora.alpha=8", "model.lora.dropout=0"] if recipe != "sft" else []
    words = small_run(f"{recipe}_{layout}", model, f"{data}/{kind}.jsonl", out, STEPS)
    return [f"recipe={recipe}", *words, "checkpoint.keep=1", *lora, *own, *LAYOUTS[layout][1]]


def small_run(name: str, model: Path | str, data: Path | str, out: Path | str, steps: int) -> list[str]:
    """Words of a training of a tiny model for some steps of 4 samples, two of them in a micro batch, in ``out/name``."""
    return [
        "model=mini",
        f"name={name}",
        f"model.hf_path={model}",
        f"data.train={data}",
        f"exp_manager.exp_dir={out}",
        "exp_manager.create_tensorboard_logger=false",
        "trainer.enable_progress_bar=false",
        f"trainer.max_steps={steps}",
        "precision=fp32",
        "model.max_length=200",
        "model.micro_batch_size=2",
        "model.global_batch_size=4",
        "model.optim.lr=1e-2",
        "model.optim.projector_lr=3e-3",
        "model.optim.eps=1e-4",  # Adam divides by almost nothing otherwise, and rounding becomes visible
        "checkpoint.every_n_steps=0",
        UNPROBED,
    ]


def worst(found: dict[str, dict[str, list[float]]], expected: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    """Return, per number of `NUMBERS`, the largest relative difference of any step of any run."""
    return {
        name: max(
            abs(new - old) / abs(old)
            for run in expected
            for new, old in zip(found[run][name], expected[run][name], strict=True)
        )
        for name in NUMBERS
    }


def losses(run: Path) -> dict[str, list[float]]:
    """Return the numbers of a run's steps, name by name, first step first."""
    lines = (run / "metrics/training.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1)), f"{run}: {steps}"
    return {name: [step[name] for step in steps] for name in NUMBERS}


RESUMED, SAVED_STEP = ("dpo", "tp2"), 3
"""The run in ``run/``: its recipe and layout, and the step of its checkpoint."""


def resumed_overrides(model: Path | str, data: Path | str, out: Path | str) -> list[str]:
    """Words of `scripts/train.py` for the run that was killed and is resumed, in ``out/resumed``."""
    save = [f"checkpoint.every_n_steps={SAVED_STEP}", "checkpoint.keep=9", "name=resumed"]
    return [*overrides(*RESUMED, model, data, out), *save]
