"""The steps in order, each within its limit; the report is written after every one, and when it is interrupted."""

from __future__ import annotations

import importlib
import logging
import os
import tempfile
import time
import traceback
from pathlib import Path

from nemo_mm_align.benchmarks.gpu import facts
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.outputs import file_to_write
from nemo_mm_align.preflight import hardware
from nemo_mm_align.preflight.versions import fingerprint
from nemo_mm_align.verify.context import Context
from nemo_mm_align.verify.options import Options
from nemo_mm_align.verify.outcome import Outcome, Verdict, skipped
from nemo_mm_align.verify.plan import LEAST_S, STEPS, Step
from nemo_mm_align.verify.programs import last_lines
from nemo_mm_align.verify.report import Report

logger = logging.getLogger(__name__)

_CPU_RANKS = 2


def run(options: Options, command: str) -> Report:
    """Run the steps and return the report, which is written.

    Args:
        command: as typed, for the report.

    Raises:
        UserError: there is no GPU or fewer than asked for, or the report cannot be written.
        KeyboardInterrupt: after the report was written with what had been done.
    """
    for path in (options.out, options.log):
        file_to_write(path)
    gpus = 0 if options.dry_run else _count(options.gpus)
    report = _begin(options, command, gpus)
    end = time.monotonic() + options.budget_s
    with tempfile.TemporaryDirectory(prefix="verify-", ignore_cleanup_errors=True) as work:
        for step in STEPS:
            if step.name in options.steps:
                _carry_out(step, options, gpus, end, Path(work), report)
    return report


def _count(asked: int | None) -> int:
    """GPUs that take part."""
    there = hardware.visible(os.environ, len(hardware.query_gpus() or []))
    if there == 0:
        raise UserError(
            "no GPU is visible (nvidia-smi). Start the container with its GPUs (docker --gpus all), or try the steps on "
            "the CPU with --dry-run."
        )
    if asked is not None and asked > there:
        raise UserError(f"--gpus {asked}: {there} visible.")
    return asked or there


def _begin(options: Options, command: str, gpus: int) -> Report:
    how = f"{gpus} GPUs." if gpus > 1 else "One GPU: what needs two was not tried."
    if options.dry_run:
        how = "**Dry run on the CPU at toy sizes: nothing below says anything about a GPU, and no figure means anything.**"
    commit = os.environ.get("NEMO_MM_ALIGN_COMMIT") or fingerprint()["commit"]
    report = Report(options.out, facts.describe(command), commit, how, options.built)
    report.write()
    return report


def _carry_out(step: Step, options: Options, gpus: int, end: float, work: Path, report: Report) -> None:
    left = end - time.monotonic()
    if left < LEAST_S:
        report.add(step, skipped(f"{max(left, 0):.0f} s of the budget were left"), 0.0)
        return
    folder = work / step.name
    folder.mkdir()
    seconds = min(step.limit_s, left)
    logger.info("%s: %s, at most %.0f s", step.name, step.what, seconds)
    start = time.monotonic()
    with options.log.open("ab") as log:
        log.write(f"######## {step.name}\n".encode())
        begin = log.tell()
    context = Context(
        gpus=gpus,
        ranks=gpus or _CPU_RANKS,
        deadline=start + seconds,
        work=folder,
        log=options.log.absolute(),
        variables=_variables(gpus),
    )
    outcome = Outcome(Verdict.INTERRUPTED, "ended from outside")
    try:
        outcome = _perform(step, context)
    except KeyboardInterrupt:
        outcome = Outcome(outcome.verdict, outcome.found, lines=last_lines(options.log, begin))
        raise
    finally:
        report.add(step, outcome, time.monotonic() - start)
        logger.info("%s: %s, %s", step.name, outcome.verdict.value, outcome.found)


def _perform(step: Step, context: Context) -> Outcome:
    try:
        outcome: Outcome = importlib.import_module(f"nemo_mm_align.verify.{step.name}").perform(context)
    except Exception as error:  # ours; the other steps are worth having all the same
        lines = traceback.format_exc().splitlines()
        return Outcome(Verdict.FAILED, f"{type(error).__name__}: {error}", lines=tuple(lines[-20:]))
    return outcome


def _variables(gpus: int) -> dict[str, str]:
    """For the programs of all steps: the GPUs that take part, none in a dry run."""
    if not gpus:
        return {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = listed.split(",") if listed else [str(number) for number in range(gpus)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[:gpus])}
