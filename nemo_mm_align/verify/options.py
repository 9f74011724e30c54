"""What is to be verified, read from words of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from nemo_mm_align.core.errors import UserError, suggestion
from nemo_mm_align.verify.plan import NAMES

REPORT = Path("verify_report.md")


@dataclass(frozen=True)
class Options:
    """Settings of a verification.

    Args:
        out: the report; a log with all output lies beside it, ending in ``.log``.
        steps: names of `plan.STEPS`, in that order whatever the order here.
        budget_s: seconds of wall time that all steps share.
        gpus: how many GPUs take part; ``None`` for all that are visible.
        dry_run: on the CPU, two processes, toy sizes.
        built: what is known of the image's build, for the report; ``None`` where none was built.
    """

    out: Path = REPORT
    steps: tuple[str, ...] = NAMES
    budget_s: float = 3000.0
    gpus: int | None = None
    dry_run: bool = False
    built: str | None = None

    @property
    def log(self) -> Path:
        """All output of all steps, appended; it stays where it is."""
        return self.out.with_name(f"{self.out.stem}.log")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. verify.sh --help lists the options.")


def from_words(words: Sequence[str]) -> Options:
    """Read the options that ``containers/verify.sh --help`` explains; raise `UserError` for a bad one."""
    parser = _Parser(prog="python -m nemo_mm_align.verify", add_help=False, allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=REPORT)
    parser.add_argument("--steps", type=_names, default=list(NAMES))
    parser.add_argument("--skip", type=_names, default=[])
    parser.add_argument("--budget", type=float, default=Options.budget_s)
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--built")
    found = parser.parse_args(words)
    for name in (*found.steps, *found.skip):
        if name not in NAMES:
            raise UserError(f"there is no step {name}.{suggestion(name, NAMES)}")
    if found.out.suffix == ".log":
        raise UserError(f"--out {found.out}: the log of all output is called so; give the report another ending.")
    steps = tuple(name for name in NAMES if name in found.steps and name not in found.skip)
    if not steps:
        raise UserError(f"no step is left to run; there are {', '.join(NAMES)}.")
    if not found.budget > 0:  # NaN is refused as well
        raise UserError(f"--budget {found.budget:g}: seconds for all steps together, above 0.")
    if found.gpus is not None and found.gpus < 1:
        raise UserError(f"--gpus {found.gpus}: at least 1.")
    return Options(found.out, steps, found.budget, found.gpus, found.dry_run, found.built)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]
