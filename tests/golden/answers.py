"""The answers that are pinned: settings that maker and tests share."""

from __future__ import annotations

from pathlib import Path

QUESTIONS = 24
DECODING = {
    "greedy": ["max_new_tokens=20"],
    "sampled": ["max_new_tokens=20", "num_samples=2", "temperature=0.8", "top_p=0.9", "top_k=40", "seed=7"],
    "steered": ["max_new_tokens=12", "attributes.verbosity=1", "sweep=[helpfulness]"],
}
"""Name of the file -> overrides; the sweep asks each question once per value."""


def words(name: str, model: Path | str, data: Path | str, out: Path | str) -> list[str]:
    """Words of `scripts/generate.py`; one question at a time, so that a run can be stopped anywhere."""
    return [
        f"checkpoint={model}",
        f"prompts={data}/questions.jsonl",
        f"out={out}",
        "template=vicuna_v1",
        "precision=fp32",
        "max_batch_tokens=100",
        *DECODING[name],
    ]
