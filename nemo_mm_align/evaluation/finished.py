"""Finished evaluations, read back from their folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.results import Results, read_results
from nemo_mm_align.evaluation.suite import Suite
from nemo_mm_align.schema.records import read_records

Answers = Mapping[str, ScoredAnswer]
"""By prompt id."""


@dataclass(frozen=True)
class FinishedTask:
    """One task of a finished evaluation: its figures, and the answers of each method that they rest on."""

    folder: Path
    results: Results
    methods: Mapping[str, Answers]


def read_tasks(folder: Path) -> dict[str, Results]:
    """Return the figures in a folder's results.json by task, of one task or of several.

    Raises:
        UserError: there is none, or none of this version.
    """
    path = folder / "results.json"
    try:
        several = json.loads(path.read_bytes()).get("format") == 3 if path.is_file() else False
    except (ValueError, AttributeError):
        several = False
    if not several:
        results = read_results(path)
        return {results.task: results}
    try:
        return Suite.model_validate_json(path.read_bytes()).tasks
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "file"
        raise UserError(f"{path}: not a result of this version ({where}: {fault['msg']}). Evaluate again.") from None


def read_finished(folder: Path) -> dict[str, FinishedTask]:
    """Return a finished evaluation by task.

    Raises:
        UserError: the folder holds none, or answers are missing or broken; the message names the file.
    """
    tasks = read_tasks(folder)
    several = json.loads((folder / "results.json").read_bytes()).get("format") == 3
    return {
        name: FinishedTask(folder, results, _answers(folder / "judged" / (name if several else ""), results))
        for name, results in tasks.items()
    }


def _answers(folder: Path, results: Results) -> dict[str, Answers]:
    found: dict[str, Answers] = {}
    for method in results.methods:
        path = folder / f"{method}.jsonl"
        if not path.is_file():
            raise UserError(f"{path}: no such file. Comparing reads every answer's score; evaluate again.")
        found[method] = {answer.prompt_id: answer for answer in read_records(path, ScoredAnswer)}
    return found
