"""The whole loop on the miniature world, step by step through the same commands that a user gives on own data."""

from __future__ import annotations

import shutil

from nemo_mm_align.miniature.base_steps import base_steps
from nemo_mm_align.miniature.folders import MiniatureRun
from nemo_mm_align.miniature.seed_steps import SeedSteps
from nemo_mm_align.miniature.steps import Step
from nemo_mm_align.miniature.world import build_world
from nemo_mm_align.schema.records import Prompt, read_records, write_records


def steps_of(run: MiniatureRun) -> list[Step]:
    """Return all steps up to the held-out answers, in order."""
    return [world_step(run), *base_steps(run), *(step for seed in run.seeds for step in SeedSteps(run, seed).steps())]


def world_step(run: MiniatureRun) -> Step:
    """Draw the world's images and write its prompts, those of the steering sweep and the text instructions among them."""
    count = run.settings.steering_prompts

    def make() -> None:
        shutil.rmtree(run.world, ignore_errors=True)
        build_world(run.world, run.settings.world, with_base=run.settings.base == "train")
        for split in ("dev", "heldout"):
            prompts = list(read_records(run.world / f"{split}.jsonl", Prompt))
            pictures = [prompt for prompt in prompts if prompt.images]
            texts = [prompt for prompt in prompts if not prompt.images]
            spread = pictures[:: max(1, len(pictures) // max(1, count))][:count]
            write_records(run.world / f"steering_{split}.jsonl", spread)
            write_records(run.world / f"text_{split}.jsonl", texts)

    settings = run.settings.world.model_dump(mode="json") | {"steering": count, "base": run.settings.base}
    return Step("world", make, [run.world], settings=settings)
