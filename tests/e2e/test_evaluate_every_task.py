"""Every task in one command: models answer small data in the published layouts, a local judge says its part, one report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nemo_mm_align.core.repository import PACKAGE
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.schema.records import Prompt, Turn, read_records, write_records
from nemo_mm_align.workflow.overrides import override_value
from tests.judge_server import JudgeServer, judge_server
from tests.tiny import tiny_llava
from tests.unit.evaluation import task_data
from tests.unit.evaluation.fastchat_files import write_mt_bench
from tests.unit.evaluation.judged import helpsteer
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TOKENS = 4
"""Of each answer: enough for a letter, a word and an empty string."""
METHODS = ("base", "tiny")
UNJUDGED = {"pope": 12, "mmbench": 7, "scienceqa": 3, "ifeval": 3, "own": 4}
JUDGED = {"mt_bench": 3, "mm_vet": 3, "llava_bench": 3, "alpaca_eval": 6, "own_rubric": 2, "attributes": 3}
PROMPTS = {**JUDGED, **UNJUDGED}
"""Prompts of each task; circular evaluation asks three questions of two or three options in 2 + 2 + 3 orders."""
CALLS = {"mt_bench": 6, "mm_vet": 3, "llava_bench": 3, "alpaca_eval": 6, "own_rubric": 2, "attributes": 3}
"""Of one method: MT-Bench's judge sees both turns, AlpacaEval's one order."""
OF_THE_FIELD = {*PROMPTS} - {"own", "own_rubric", "attributes"}


def write_tasks(folder: Path) -> dict[str, dict[str, Any]]:
    """Write the data of all tasks; return what the command says of each."""
    mm_vet, examples = task_data.write_mm_vet(folder / "mm_vet")
    baseline, judge_prompt = task_data.write_alpaca_eval(folder / "alpaca_eval")
    questions, rubric = task_data.write_own_rubric(folder / "own_rubric")
    prompts = [Prompt(id=f"p{n}", turns=(Turn(role="user", content=f"red {n} blue?"),)) for n in range(3)]
    write_records(folder / "prompts.jsonl", prompts)
    short = {
        "mt_bench": {"data": write_mt_bench(folder)},
        "mm_vet": {"data": mm_vet, "examples": examples},
        "llava_bench": {"data": task_data.write_llava_bench(folder / "llava_bench")},
        "alpaca_eval": {"baseline": baseline, "judge_prompt": judge_prompt},
        "pope": {"data": task_data.write_pope(folder / "pope")},
        "mmbench": {"data": task_data.write_mmbench(folder)},
        "scienceqa": {"data": task_data.write_scienceqa(folder / "scienceqa")},
        "ifeval": {"data": task_data.write_ifeval(folder / "ifeval")},
        "own": {"data": task_data.write_own(folder / "own")},
        "own_rubric": {"data": questions, "rubric": rubric},
    }
    limited = {name: {key: str(value) for key, value in said.items()} for name, said in short.items()}
    shared = {"data": str(folder / "prompts.jsonl")}
    return {**{name: {**said, "max_new_tokens": TOKENS} for name, said in limited.items()}, "attributes": shared}
