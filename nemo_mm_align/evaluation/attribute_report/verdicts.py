"""What the numbers say, in words, each sentence with its evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nemo_mm_align.evaluation.attribute_report.measures import Told
from nemo_mm_align.reporting.agreement import Estimate

MODEL, CEILING, SHUFFLED, PROBE = "model", "same judge again", "images shuffled", "probe"
CHANCE = 0.5
NOTABLE_SLOPE = 0.1
"""Distance of a slope from 1 below which it is not worth a sentence."""
FEW_PAIRS = 50
"""Pairs below which their intervals are too wide to say anything."""


def verdicts(name: str, columns: Mapping[str, Told], seed: int) -> Iterator[str]:
    """Yield sentences on one attribute (or the weighted sum).

    Args:
        name: of it.
        columns: by `MODEL`, and those of the others that there are.
        seed: of the resampling of prompts.
    """
    model = columns[MODEL]
    accuracy = model.pairs.accuracy
    if accuracy.value is None or model.pairs.pairs < FEW_PAIRS:
        yield f"{name}: {model.pairs.pairs} pairs of answers differ in the judge's eyes, too few to say how they are ordered."
        return
    yield _against_chance(name, accuracy, model.pairs.pairs)
    if PROBE in columns:
        yield _against_probe(name, model, columns[PROBE], seed)
    if SHUFFLED in columns:
        yield _against_shuffled(name, model, columns[SHUFFLED], seed)
    if CEILING in columns:
        yield _against_ceiling(name, accuracy, columns[CEILING].pairs.accuracy)
    if sentence := _of_slope(name, model):
        yield sentence


def _against_chance(name: str, accuracy: Estimate, pairs: int) -> str:
    shown = f"{name}: of {pairs:,} pairs {_share(accuracy)} are ordered as the judge orders them"
    if accuracy.low is not None and accuracy.low > CHANCE:
        return f"{shown}, more than by chance."
    return f"{shown}: no more than by chance."


def _against_probe(name: str, model: Told, probe: Told, seed: int) -> str:
    shown = (
        f"{name}: pair accuracy {_plain(model)}, the probe {_plain(probe)} (difference {_signed(model, probe, seed)})"
    )
    side = _side(model.credits.minus(probe.credits, seed))
    if side > 0:
        return f"{shown}: training has learned more than a linear map finds in the frozen model's features."
    if side < 0:
        return f"{shown}: training has lost what a linear map finds in the frozen model's features."
    return f"{shown}: the head has learned nothing beyond frozen features, as far as these answers show."


def _against_shuffled(name: str, model: Told, shuffled: Told, seed: int) -> str:
    difference = _signed(model, shuffled, seed)
    shown = f"{name}: with images shuffled {_plain(shuffled)} instead of {_plain(model)} (difference {difference})"
    side = _side(model.credits.minus(shuffled.credits, seed))
    if side > 0:
        return f"{shown}: images are used."
    if side < 0:
        return f"{shown}: images mislead."
    return f"{shown}: images are not used, as far as these answers show."


def _against_ceiling(name: str, accuracy: Estimate, ceiling: Estimate) -> str:
    if ceiling.value is None:
        return f"{name}: the judge's repetition has no pair in common."
    shown = f"{name}: the same judge asked again orders {_share(ceiling)} of the pairs as the first time"
    assert accuracy.value is not None
    if accuracy.high is not None and accuracy.high < ceiling.value:
        return f"{shown}; the model's {accuracy.value:.2f} leaves room below that."
    return f"{shown}; the model's {accuracy.value:.2f} is as good as that, as far as these answers show."


def _of_slope(name: str, model: Told) -> str | None:
    """What a line through the calibration says, where it is separated from the perfect one."""
    slope, error = model.calibration.slope, model.calibration.error
    if slope.value is None or slope.interval is None or abs(slope.value - 1) < NOTABLE_SLOPE:
        return None
    low, high = slope.interval
    if low <= 1 <= high:
        return None
    shown = f"{name}: judged values rise by {slope.value:.2f} [{low:.2f}, {high:.2f}] where told ones rise by 1"
    word = "larger" if high < 1 else "smaller"
    return f"{shown}: differences are told {word} than they are judged (calibration error {error.value or 0:.2f})."


def _side(difference: Estimate) -> int:
    """1 or -1 where an interval excludes zero, else 0."""
    if difference.low is None or difference.high is None:
        return 0
    return 1 if difference.low > 0 else -1 if difference.high < 0 else 0


def _plain(told: Told) -> str:
    value = told.pairs.accuracy.value
    return "undefined" if value is None else f"{value:.2f}"


def _share(estimate: Estimate) -> str:
    interval = "" if estimate.interval is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"{estimate.value:.2f}{interval}"


def _signed(model: Told, other: Told, seed: int) -> str:
    difference = model.credits.minus(other.credits, seed)
    if difference.value is None or difference.low is None:
        return "undefined"
    return f"{difference.value:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"
