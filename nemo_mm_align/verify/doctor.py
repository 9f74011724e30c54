"""Step ``doctor``: scripts/doctor.py on all ranks, which ends with an all-reduce over them."""

from __future__ import annotations

import json
from typing import Any

from nemo_mm_align.benchmarks.tables import text_table
from nemo_mm_align.verify.context import Context
from nemo_mm_align.verify.outcome import Outcome, Verdict
from nemo_mm_align.verify.programs import torchrun


def perform(context: Context) -> Outcome:
    """Run it and take its report over."""
    file = context.work / "doctor.json"
    words = [*torchrun(context.ranks, "doctor.py"), f"json={file}", f"write=[{context.work}]"]
    ended = context.python(words)
    if not file.is_file():
        return Outcome(Verdict.FAILED, f"no report: {ended.how}", lines=ended.lines)
    outcome = judge(json.loads(file.read_text(encoding="utf-8")), context.gpus)
    if ended.code != 0 and outcome.verdict is not Verdict.FAILED:
        return Outcome(Verdict.FAILED, f"{outcome.found}, then {ended.how}", outcome.figures, ended.lines)
    return Outcome(outcome.verdict, outcome.found, outcome.figures, ended.lines)


def judge(report: dict[str, Any], gpus: int) -> Outcome:
    """Red fails; with one rank there is no all-reduce, so that not everything was tried."""
    findings, ranks = report["findings"], report["ranks"]
    count = {level: sum(line["level"] == level for line in findings) for level in ("red", "amber", "green")}
    found = f"{ranks} ranks: {', '.join(f'{number} {level}' for level, number in count.items())}"
    rows = [(line["level"], line["title"], line["detail"], line["remedy"]) for line in findings]
    table = text_table(("", "check", "found", "remedy"), rows)
    if report["exit_code"]:
        return Outcome(Verdict.FAILED, found, table)
    if gpus == 1:
        return Outcome(Verdict.IN_PART, f"{found}; no all-reduce, which needs two GPUs", table)
    return Outcome(Verdict.PASSED, found, table)
