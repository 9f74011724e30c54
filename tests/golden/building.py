"""The training sets that are pinned; shared by maker and test."""

from __future__ import annotations

from pathlib import Path

METHODS = {
    "sft": [],
    "rejection": ["method.threshold=6"],
    "steerlm_paper": [],
    "preference": [],
    "best_worst": [],
    "all_pairs": [],
}
"""Method of `scripts/build.py` -> overrides; no answer of the golden annotations is perfect."""


def words(method: str, labels: Path | str, out: Path | str) -> list[str]:
    """Words of `scripts/build.py` that make ``out/METHOD.jsonl``."""
    given = [f"method={method}", f"annotations={labels}/annotations.jsonl", f"out={out}/{method}.jsonl"]
    return [*given, *METHODS[method]]
