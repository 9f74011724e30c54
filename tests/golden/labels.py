"""The labelling run that is pinned: settings that maker and tests share."""

from __future__ import annotations

KEY = "AIza-golden-0123456789"
PROMPTS, SET_ASIDE = 14, 2


def words(address: str) -> list[str]:
    """Words of `scripts/label.py`, one call at a time, so that faults fall where they were put."""
    return [
        "prompts=prompts.jsonl",
        "candidates=candidates.jsonl",
        "out=annotations.jsonl",
        f"judge.api_endpoint={address}",
        "runner.concurrency=1",
        "runner.backoff_s=0.01",
    ]
