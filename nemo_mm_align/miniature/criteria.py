"""Measures whether a base is fit to be aligned: what it sees, what its samples offer, what visual tuning cost it.

python -m nemo_mm_align.miniature.criteria base=nemo_mm_align/miniature/base world=quickstart/world out=criteria

Prompts are those of the development split; held-out ones are for final figures. `text_before` is a file of answers to the
split's text instructions by the base's text stage. Started again, it asks only what is missing. Writes OUT/criteria.json.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from rich.console import Console

from nemo_mm_align.cli.entry_point import user_errors
from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.core.configuration import Count, Positive, StrictModel, read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.miniature.commands import TEMPLATE
from nemo_mm_align.miniature.criteria_counts import Drawn, Measured, judge, measure
from nemo_mm_align.miniature.folders import CRITERIA
from nemo_mm_align.miniature.judged import JudgedAnswer, judge_answer
from nemo_mm_align.miniature.oracle import RULES
from nemo_mm_align.miniature.steps import command_of
from nemo_mm_align.schema.records import CandidateSet, Prompt, read_records

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"


class CriteriaSettings(StrictModel):
    """Words of the command line.

    Args:
        base: Hugging Face folder of the base.
        world: folder of the miniature world.
        out: folder for answers and ``criteria.json``.
        split: whose prompts are asked.
        text_before: answers to the split's text instructions before visual tuning.
        num_samples, temperature, max_new_tokens, seed: how samples are drawn, as alignment draws them.
    """

    base: Path
    world: Path
    out: Path
    split: Literal["dev", "heldout"] = "dev"
    text_before: Path | None = None
    num_samples: Count = 4
    temperature: Positive = 0.7
    max_new_tokens: Count = 64
    seed: int = 0


def answer_prompts(settings: CriteriaSettings) -> tuple[Path, Path, Path]:
    """Let the base answer the split greedily, then sample the split and the training prompts; return the three files."""
    split, train = settings.world / f"{settings.split}.jsonl", settings.world / "train.jsonl"
    draw = {"num_samples": settings.num_samples, "temperature": settings.temperature, "seed": settings.seed}
    asked: dict[str, tuple[str, Path, Mapping[str, Any]]] = {
        "greedy": ("generate", split, {}),
        "samples": ("sample", split, draw),
        "train_samples": ("sample", train, draw),
    }
    files = [settings.out / f"{name}.jsonl" for name in asked]
    for file, (stage, prompts, values) in zip(files, asked.values(), strict=True):
        logger.info("%s: %s", file, prompts)
        where = {"checkpoint": str(settings.base), **TEMPLATE, "prompts": str(prompts), "out": str(file)}
        command = command_of(stage, {**where, "max_new_tokens": settings.max_new_tokens, **values})
        if subprocess.run(command, check=False).returncode:
            raise UserError(f"{stage} failed, see above; the same command goes on where it was.")
    return files[0], files[1], files[2]


def judged(file: Path, prompts: Path) -> dict[str, list[JudgedAnswer]]:
    """Judge all answers of a file by the prompts' truth: prompt id -> answers.

    Raises:
        UserError: an answer to a prompt that is not there.
    """
    known = {prompt.id: prompt for prompt in read_records(prompts, Prompt)}
    found: dict[str, list[JudgedAnswer]] = {}
    for line in read_records(file, CandidateSet):
        if line.prompt_id not in known:
            raise UserError(
                f"{file}: answers prompt {line.prompt_id}, which is not in {prompts}; give its own answers."
            )
        found[line.prompt_id] = [judge_answer(known[line.prompt_id], one.text) for one in line.candidates]
    return found


def measure_base(settings: CriteriaSettings) -> Measured:
    """Answer, judge and count."""
    greedy, samples, train_samples = answer_prompts(settings)
    split = settings.world / f"{settings.split}.jsonl"
    before = judged(settings.text_before, split) if settings.text_before else {}
    drawn: Drawn = judged(samples, split)
    train: Drawn = judged(train_samples, settings.world / "train.jsonl")
    return measure(_flat(judged(greedy, split)), drawn, train, _flat(before))


def _flat(answers: Mapping[str, Sequence[JudgedAnswer]]) -> list[JudgedAnswer]:
    return [answer for several in answers.values() for answer in several]


def report(settings: CriteriaSettings, measured: Measured) -> dict[str, Any]:
    """What ``criteria.json`` says: criteria met, figures, and of what."""
    return {
        "weights_sha256": hashlib.sha256((settings.base / WEIGHTS).read_bytes()).hexdigest(),
        "rules": RULES,
        "sampling": settings.model_dump(include={"split", "num_samples", "temperature", "max_new_tokens", "seed"}),
        "met": judge(measured),
        "measured": measured.model_dump(),
    }


def show(console: Console, written: Mapping[str, Any]) -> None:
    """Print the figures, one a line, then the styles and what is met."""
    for name, value in written["measured"].items():
        rows = value.items() if isinstance(value, dict) else [("", value)] if name != "styles" else []
        for key, number in rows:
            console.print(f"{name:18} {key:28} {number}", highlight=False)
    console.print("samples of the training prompts: a row per verbosity, a column per complexity")
    for row in written["measured"]["styles"]:
        console.print("".join(f"{count:7d}" for count in row), highlight=False)
    for criterion, met in written["met"].items():
        console.print(f"{'met' if met else 'MISSED':7} {criterion}", highlight=False)


@user_errors
def main(words: Sequence[str]) -> None:
    """Measure and write; `words` are ``key=value``."""
    settings = read(CriteriaSettings, OmegaConf.to_container(OmegaConf.from_dotlist(list(words))))
    written = report(settings, measure_base(settings))
    write_text(settings.out / CRITERIA, json.dumps(written, indent=1) + "\n")
    show(Console(soft_wrap=True), written)


if __name__ == "__main__":
    main(sys.argv[1:])
