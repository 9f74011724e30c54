"""The base of a run: the one that ships with the project, or one that is trained in the run."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path

from nemo_mm_align.core.hashing import hash_bytes
from nemo_mm_align.miniature.commands import Commands
from nemo_mm_align.miniature.folders import CRITERIA, SHIPPED_BASE, TEXT_BEFORE, MiniatureRun
from nemo_mm_align.miniature.steps import Step, module_command

logger = logging.getLogger(__name__)

BASE_STAGES = ("text", "captions", "visual")
_RECIPE = "sft"


def base_steps(run: MiniatureRun) -> list[Step]:
    """Return the steps that make the base."""
    return _trained(run) if run.settings.base == "train" else [_copied(run)]


def _copied(run: MiniatureRun) -> Step:
    def copy() -> None:
        shutil.rmtree(run.base, ignore_errors=True)
        shutil.copytree(SHIPPED_BASE, run.base, ignore=shutil.ignore_patterns("text_before*", CRITERIA))
        take_text_before(SHIPPED_BASE / TEXT_BEFORE, run.text_prompts, run.text_before)

    return Step("base", copy, [run.base], ["world"], settings={"base": digest(SHIPPED_BASE)})


def _trained(run: MiniatureRun) -> list[Step]:
    """Sight of the tower, then text, caption alignment and visual tuning (data-parallel), each from the one before."""
    commands, settings, folder = Commands(run), run.settings, run.out / "base"
    blank, seeing = folder / "blank", folder / "seeing"
    sizes, seed = json.dumps(settings.model), str(settings.first_seed)
    sight = module_command("sight", str(blank), str(run.world), str(seeing), settings.sight.model_dump_json(), seed)
    steps = [
        Step("base_blank", module_command("blank", str(blank), sizes, seed), [blank], ["world"]),
        Step("base_sight", sight, [seeing], ["world", "base_blank"]),
    ]
    start, before = {"model.hf_path": str(seeing)}, "base_sight"
    for name in BASE_STAGES:
        values = {**start, "data.train": str(run.world / f"base_{name}.jsonl")}
        words = [*settings.base_stages["all"], "recipe.epochs=99", *settings.base_stages[name]]  # max_steps ends it
        steps.append(commands.training(f"base_{name}", _RECIPE, folder / name, values, ["world", before], words))
        start, before = {"model.checkpoint": str(folder / name)}, f"base_{name}"
    speaking = {**commands.start(folder / "text"), **commands.layout}
    asked = commands.answers("text_before", speaking, run.text_prompts, run.text_before, ["base_text"])
    return [*steps, asked, commands.export("base", folder / "visual", run.base, ["base_visual"])]


def digest(folder: Path) -> str:
    """Return the hash of all files that lie in a folder."""
    return hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file())
    ).hexdigest()


def take_text_before(shipped: Path, prompts: Path, out: Path) -> None:
    """Use the recorded answers of the shipped base's text stage, if they are answers to these very prompts."""
    settings = shipped.with_name(f"{shipped.stem}.settings.json")  # what `generate` records beside its answers
    if not settings.is_file():
        return
    if json.loads(settings.read_text())["prompts"] == hash_bytes(prompts.read_bytes()):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shipped, out)
    else:
        logger.warning(
            "this world has other text instructions than the base was asked: ability before images is left out"
        )
