"""Finished evaluations beside each other: paired differences, categories, what went from right to wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def compare_runs(folders: Sequence[Path], out: Path) -> Path:
    """Compare finished evaluation folders; write comparison.json, report.html and report.md; return the page's path.

    Args:
        folders: of `evaluate`, each with results.json and ``judged/<method>.jsonl`` (several tasks:
            ``judged/<task>/<method>.jsonl``).
        out: folder to write.

    Raises:
        UserError: a folder holds no evaluation, or they are not of the same task and prompts; it says which differ.
    """
    raise NotImplementedError
