"""What is to be measured, read from words of the command line or from a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from nemo_mm_align.core.configuration import STRICT
from nemo_mm_align.core.errors import UserError, check_keys

SIZE_NAMES = ("7b", "13b", "toy")


@dataclass(frozen=True)
class Options:
    """Settings of a run.

    Args:
        steps: names of `plan.STEPS`, in that order whatever the order here; ``None`` for all that fit the size.
        budget_s: seconds of wall time that all steps share.
        size: ``7b`` or ``13b`` (LLaVA-1.5's shapes), or ``toy``, which also runs on a CPU.
        out: folder for results.jsonl, gpu.md, log.txt and the tests' reports; lines are appended.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    steps: tuple[str, ...] | None = None
    budget_s: float = 560.0
    size: str = "7b"
    out: Path = Path("gpu_out")

    def __post_init__(self) -> None:
        if self.size not in SIZE_NAMES:
            raise UserError(f"size={self.size!r}: choose from {', '.join(SIZE_NAMES)}.")
        if self.steps is not None and not self.steps:
            raise UserError("steps: none is named; leave it out for all.")
        if not self.budget_s > 0:  # NaN is refused as well
            raise UserError(f"budget_s={self.budget_s}: seconds for all steps together, above 0.")


def from_values(values: Mapping[str, Any]) -> Options:
    """Read plain values, for example conf/benchmark.yaml's section ``gpu``; raise `UserError` for a bad one."""
    check_keys(values, [item.name for item in fields(Options)], "gpu")
    found = dict(values)
    if found.get("steps") is not None:
        found["steps"] = tuple(str(name) for name in found["steps"])
    if "budget_s" in found:
        found["budget_s"] = _seconds(found["budget_s"])
    if "size" in found:
        found["size"] = str(found["size"])
    if "out" in found:
        found["out"] = Path(found["out"])
    return Options(**found)


def from_words(words: Sequence[str]) -> Options:
    """Read ``KEY=VALUE`` words; steps are parted by commas, in brackets or not."""
    values: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"cannot read {word!r}: write KEY=VALUE, for example steps=train,decode.")
        values[key] = value
    if "steps" in values:
        values["steps"] = [name.strip() for name in values["steps"].strip("[]").split(",") if name.strip()]
    return from_values(values)


def _seconds(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"budget_s={value!r}: must be a number of seconds.") from None
