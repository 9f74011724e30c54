"""The findings as text for a terminal or a log, as JSON, and as an exit code."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nemo_mm_align.cli.entry_point import EXIT_CODE
from nemo_mm_align.core import atomic
from nemo_mm_align.preflight.finding import Finding, Level

EXIT_RED = EXIT_CODE  # a restart mends it as little as a mistake in the settings
_COLOURS = {Level.GREEN: "32", Level.AMBER: "33", Level.RED: "31"}


def exit_code(findings: Sequence[Finding], strict: bool) -> int:
    """0 for green and amber, 2 for red; `strict` counts amber as red."""
    worst = max((finding.level for finding in findings), default=Level.GREEN)
    return EXIT_RED if worst == Level.RED or (strict and worst == Level.AMBER) else 0


def verdict(findings: Sequence[Finding]) -> str:
    """One line: how many are of which level."""
    counts = {level: sum(finding.level == level for finding in findings) for level in Level}
    worst = max((finding.level for finding in findings), default=Level.GREEN)
    return (
        f"{worst.name}: {counts[Level.RED]} red, {counts[Level.AMBER]} amber, {counts[Level.GREEN]} green "
        f"of {len(findings)} checks"
    )


def render(findings: Sequence[Finding], colour: bool = False, width: int = 120) -> str:
    """One line per finding, its remedy below it; the verdict at the end."""
    title_width = max((len(finding.title) for finding in findings), default=0)
    title_width = min(title_width, 32)
    lines = []
    for finding in findings:
        level = f"{finding.level.name:5}"
        head = f"{level} {finding.title:{title_width}}  "
        shown = f"\x1b[{_COLOURS[finding.level]}m{level}\x1b[0m{head[len(level) :]}" if colour else head
        body = textwrap.wrap(finding.detail, width - title_width - 8, break_long_words=False) or [""]
        indent = " " * (title_width + 8)
        lines += [shown + body[0], *(indent + line for line in body[1:])]
        if finding.remedy and finding.level:
            remedy = textwrap.wrap(f"-> {finding.remedy}", width - title_width - 8, break_long_words=False)
            lines += [indent + line for line in remedy]
    return "\n".join([*lines, verdict(findings)])


def write_json(path: Path, findings: Sequence[Finding], facts: dict[str, Any], code: int) -> None:
    """Write the report for scripts, complete or not at all.

    Args:
        path: the file.
        findings: all of them.
        facts: what is known of the run (ranks, nodes, versions).
        code: the exit code that goes with it.
    """
    report = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": max((finding.level for finding in findings), default=Level.GREEN).name.lower(),
        "exit_code": code,
        **facts,
        "findings": [finding.to_dict() for finding in findings],
    }
    atomic.write_json(path, report, indent=1)
