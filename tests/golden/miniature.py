"""The small miniature that is pinned: settings that maker and test share, and what of its results is compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

PASSING = (".created", ".versions.", ".training.seconds", ".training.health")
"""Parts of keys that say when and by what the run was made; a training's verdict came later, and is words about its numbers."""

LOSS_BOUND, NUMBER_BOUND = 1e-4, 1e-9
"""Relative: of losses, which instruction sets round apart, and of means over answers, which are the same."""


def words(out: Path | str) -> list[str]:
    """Words of `scripts/miniature.py`: from the shipped base, two steps each of one method with scores and one with pairs."""
    return [
        f"out={out}",
        "methods=[steerlm_paper,dpo]",
        "attribute_model=false",
        "tensor_parallel=[steerlm_paper,dpo,answers]",
        "brief=null",
        "steering_prompts=2",
        "world.train={easyvqa:12,charts:12,text:4}",
        "world.dev={easyvqa:2,charts:2,text:2}",
        "world.heldout={easyvqa:6,charts:6,text:4}",
        "sampling.max_new_tokens=12",
        'build.steerlm_paper=["method.drop_truncated=false"]',
        'build.dpo=["method.drop_truncated=false"]',
        'train.steerlm_paper=["model.global_batch_size=16","model.micro_batch_size=16","trainer.max_steps=2"]',
        'train.dpo=["model.global_batch_size=8","model.micro_batch_size=4","trainer.max_steps=2"]',
    ]


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is compared of ``results.json``: key -> number, text, null, or an empty list or mapping."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from flat(item, f"{key}.{name}")
    elif not any(part in key for part in PASSING):
        yield key, value


def same(key: str, old: Any, new: Any) -> bool:
    """Whether two values of a key are the same, numbers up to rounding."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (old, new))
    if not numbers:
        return bool(old == new)
    bound = LOSS_BOUND if ".losses." in key else NUMBER_BOUND
    return abs(old - new) <= bound * max(abs(old), abs(new))


def changes(before: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """Return the keys in which two files of results differ, with both values; a key that one lacks counts as "absent"."""
    old, new = dict(flat(before)), dict(flat(now))
    values = {key: (old.get(key, "absent"), new.get(key, "absent")) for key in {**old, **new}}
    return {key: pair for key, pair in values.items() if not same(key, *pair)}


GROUPED = ("judged", "correctness_by_source")


def in_format_1(results: dict[str, Any]) -> dict[str, Any]:
    """Return results of format 2 as format 1 had them, so that the numbers can be compared."""
    named = {key: value for key, value in results.items() if key not in ("task", "measures", "prompts")}
    return {
        **named,
        "format": 1,
        "methods": {name: _method_1(one) for name, one in results["methods"].items()},
        "steering": _steering_1(results["steering"]),
        "steering_by_method": {name: _steering_1(one) for name, one in results["steering_by_method"].items()},
    }


LATER = ("slope", "slope_interval", "never_against", "never_against_interval", "strictly_follows", "range", "matrix")


def _steering_1(steering: dict[str, Any]) -> dict[str, Any]:
    """Return steering without the figures that came later, and without intervals over prompts, which format 1 did not have."""
    return {
        name: {
            **{key: value for key, value in one.items() if key not in LATER},
            "interval": one["interval"] if one["interval"] and one["interval"]["over"] == "seeds" else None,
            "curve": [{key: value for key, value in point.items() if key != "correctness"} for point in one["curve"]],
        }
        for name, one in steering.items()
    }


def _method_1(method: dict[str, Any]) -> dict[str, Any]:
    found = method["measurements"]
    plain = dict.fromkeys(("correctness", "hallucination", "yes_no_accuracy", "text_score", "length_words", "score"))
    grouped: dict[str, dict[str, float]] = {name: {} for name in GROUPED}
    for name, one in found.items():
        head, _, part = name.partition(".")
        if part:
            grouped[head][part] = one["value"]
        else:
            plain[name] = one["value"]
    return {
        **plain,
        **grouped,
        "intervals": {name: one["interval"] for name, one in found.items() if one["interval"]},
        "per_seed": {name: one["per_seed"] for name, one in found.items()},
        "minus_base": {name: one["minus_base"] for name, one in found.items() if one["minus_base"] is not None},
        "minus_base_intervals": {
            name: one["minus_base_interval"] for name, one in found.items() if one["minus_base_interval"]
        },
        "counts": {name: one["n"] for name, one in found.items()},
        "asked": method["asked"],
        "training": method["training"],
    }
