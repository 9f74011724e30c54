"""The steps in order of value, how long each may take, and how they share the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nemo_mm_align.core.errors import UserError, suggestion

LEAST_S = 12.0
"""A step is not begun with less: it would end before its model is built."""


@dataclass(frozen=True)
class Step:
    """One step of the plan.

    Args:
        name: as in ``steps=``.
        limit_s: seconds after which its process is killed.
        module: in this package; its ``measure(context)`` does the work.
        what: in a few words.
        size: the model's, where it is not the run's.
    """

    name: str
    limit_s: float
    module: str
    what: str
    size: str | None = None


STEPS = (
    Step("tests", 120, "correctness", "tests/gpu, in two processes side by side"),
    Step("ceilings", 40, "ceilings", "what the card reaches: a bf16 product, copying, launching"),
    Step("train", 150, "training", "DPO with LoRA in bf16: micro batches, shared rows, levers, new row lengths"),
    Step("decode", 80, "decoding", "greedy answers of 1, 16 and 64 rows"),
    Step("fp8", 100, "twins", "three kinds of FP8: speed, and loss and gradient beside those of bf16"),
    Step("attention", 50, "attention", "attention kernels for shared-prefix rows"),
    Step("peer", 75, "peer", "transformers with PEFT in a plain loop, the same loss on the same rows"),
    Step("train_13b", 150, "larger", "DPO with LoRA of the 13B shape", size="13b"),
    Step("methods", 90, "methods", "SFT and SteerLM with LoRA, full fine-tuning"),
)


def choose(names: Sequence[str] | None, size: str) -> list[Step]:
    """Return the asked steps in the plan's order, or all that belong to a size; raise `UserError` for an unknown name."""
    if names is None:
        return [step for step in STEPS if step.size is None or size == "7b"]
    known = [step.name for step in STEPS]
    for name in names:
        if name not in known:
            raise UserError(f"steps: there is no {name}.{suggestion(name, known)}")
    return [step for step in STEPS if step.name in names]


def granted(limit_s: float, left_s: float) -> float | None:
    """Seconds that a step gets of what is left of the budget; ``None`` where that is too little to begin."""
    seconds = min(limit_s, left_s)
    return seconds if seconds >= LEAST_S else None
