"""Step ``benchmark``: the measurements of ``python -m nemo_mm_align.benchmarks.gpu``, its tables taken over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nemo_mm_align.benchmarks.gpu import plan, records, run, table
from nemo_mm_align.verify.context import Context
from nemo_mm_align.verify.outcome import Outcome, Verdict, skipped
from nemo_mm_align.verify.programs import last_lines

_TO_END_S = 10.0
_OUT_OF_MEMORY = "out of memory"
_DRY = ("ceilings", "decode")
"""All steps at toy size are tests of the benchmark itself."""


def perform(context: Context) -> Outcome:
    """Measure; tests/gpu is a step of its own here."""
    out = context.work / "gpu"
    names = [step.name for step in plan.choose(None, "7b") if step.name != "tests"] if context.gpus else _DRY
    words = [f"steps={','.join(names)}", f"size={'7b' if context.gpus else 'toy'}", f"out={out}"]
    budget = f"budget_s={max(1.0, context.left_s - _TO_END_S):.0f}"
    ended = context.python(["-m", "nemo_mm_align.benchmarks.gpu", *words, budget])
    lines = _keep_log(out / run.LOG, context.log) or ended.lines
    outcome = judge(records.read_all(out / records.FILE))
    if ended.code != 0:
        return Outcome(Verdict.FAILED, f"{outcome.found}; {ended.how}", outcome.figures, lines)
    return Outcome(outcome.verdict, outcome.found, outcome.figures, lines)


def judge(lines: Sequence[table.Line]) -> Outcome:
    """An error or a step that crashed fails; a lack of memory or time leaves the verdict at what was measured."""
    steps = [line for line in lines if line.get("kind") == "step"]
    cases = [line for line in lines if line.get("kind") != "step"]
    measured = [line for line in cases if "skipped" not in line and "error" not in line]
    bad = [line for line in lines if line.get("error", _OUT_OF_MEMORY) != _OUT_OF_MEMORY or line.get("exit_code")]
    left = [line for line in steps if "skipped" in line]
    left += [line for line in cases if line.get("error") == _OUT_OF_MEMORY]
    found = f"{len(measured)} cases measured, {len(cases) - len(measured)} not"
    figures = table.markdown(lines)
    if bad:
        names = ", ".join(dict.fromkeys(f"{line['step']}: {line['name']}" for line in bad))
        return Outcome(Verdict.FAILED, f"{found}; failed: {names}", figures)
    if not measured:
        return skipped("nothing was measured")
    return Outcome(Verdict.IN_PART if left else Verdict.PASSED, found, figures)


def _keep_log(path: Path, log: Path) -> tuple[str, ...]:
    """Append the benchmark's own log, which lies in a folder that is removed; return its last lines."""
    if not path.is_file():
        return ()
    with log.open("ab") as file:
        file.write(path.read_bytes())
    return last_lines(path)
