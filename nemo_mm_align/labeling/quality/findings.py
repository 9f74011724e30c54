"""What a reader should look at before training on annotations: signs of a judge that does not judge."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator

from nemo_mm_align.core.running_mean import Mean
from nemo_mm_align.labeling.quality.collect import LENGTH, SCORE, Quality, best_value

log = logging.getLogger(__name__)

MIN_CANDIDATES = 20
"""Below so many, shares and correlations say nothing."""
SATURATED_SHARE = 0.9
LENGTH_CORRELATION = 0.5
SAME_ATTRIBUTE = 0.95
FAILURE_RATE = 0.1
TRUNCATED_RATE = 0.01
STANDARD_ERRORS = 3.3
"""For drift and position: chance alone exceeds it once in a thousand."""
SMALL_SHIFT = 0.02
"""Share of the score's range below which a shift is not worth a warning, however certain."""


def findings(quality: Quality) -> list[str]:
    """Return the warnings, each a sentence with its numbers."""
    checks = (_saturation, _same_attributes, _length, _position, _drift, _failures, _mixture)
    return [finding for check in checks for finding in check(quality)]


def describe_checks() -> list[str]:
    """Return when each check warns, in words."""
    return [
        f"an attribute has one value only, or its best value for {SATURATED_SHARE:.0%} of the candidates",
        f"two attributes correlate above {SAME_ATTRIBUTE}, either way",
        f"score and length correlate at {LENGTH_CORRELATION} or more, either way",
        f"a place's scores, or those of the last third of the judgements against the first, are off by more than "
        f"{STANDARD_ERRORS} standard errors and {SMALL_SHIFT:.0%} of the score's range",
        f"more than {FAILURE_RATE:.0%} of the calls failed, or {TRUNCATED_RATE:.0%} were cut",
        "the file mixes judges, settings or rubrics",
    ]


def log_findings(quality: Quality) -> list[str]:
    """Log the warnings and return them."""
    found = findings(quality)
    for finding in found:
        log.warning("quality of %s: %s", quality.path, finding)
    return found


def _saturation(quality: Quality) -> Iterator[str]:
    if quality.candidates < MIN_CANDIDATES:
        return
    for attribute in quality.schema.attributes:
        share = quality.at_best[attribute.name] / quality.candidates
        if quality.correlations.is_constant(attribute.name):
            value = next(iter(quality.histograms[attribute.name].counts))
            yield f"{attribute.name} has the same value, {value:g}, for every candidate: it tells nothing."
        elif share >= SATURATED_SHARE:
            best = best_value(attribute)
            yield f"{attribute.name} is {best:g} for {share:.0%} of the candidates: the judge hardly tells them apart."


def _same_attributes(quality: Quality) -> Iterator[str]:
    for first, second in itertools.combinations(quality.schema.names, 2):
        value = _correlation(quality, first, second)
        if abs(value) > SAME_ATTRIBUTE:
            yield f"{first} and {second} are practically one attribute: they correlate at {value:.3f}."


def _length(quality: Quality) -> Iterator[str]:
    value = _correlation(quality, SCORE, LENGTH) if quality.schema.score else math.nan
    if abs(value) >= LENGTH_CORRELATION:
        direction = "longer" if value > 0 else "shorter"
        yield f"the judge may reward length: {direction} answers score higher (correlation {value:+.2f})."


def _correlation(quality: Quality, first: str, second: str) -> float:
    return quality.correlations.between(first, second) if quality.candidates >= MIN_CANDIDATES else math.nan


def _position(quality: Quality) -> Iterator[str]:
    shifted = [
        f"place {place} by {mean.mean:+.2f}"
        for place, mean in enumerate(quality.positions, 1)
        if _is_off(mean, quality)
    ]
    if shifted:
        yield f"position bias: shown at {', '.join(shifted)}, a candidate's score is off its prompt's mean."


def _is_off(mean: Mean, quality: Quality) -> bool:
    return abs(mean.mean) > max(STANDARD_ERRORS * mean.standard_error, SMALL_SHIFT * _range(quality))


def _range(quality: Quality) -> float:
    histogram = quality.histograms[SCORE]
    return histogram.maximum - histogram.minimum


def _drift(quality: Quality) -> Iterator[str]:
    first, _, last = quality.timeline.parts(3)
    if min(first.count, last.count) < MIN_CANDIDATES:
        return
    shift = last.mean - first.mean
    error = math.hypot(first.standard_error, last.standard_error)
    if abs(shift) > max(STANDARD_ERRORS * error, SMALL_SHIFT * _range(quality)):
        yield (
            f"drift: the mean score went from {first.mean:.2f} in the first third of the judgements to "
            f"{last.mean:.2f} in the last (other prompts, or a judge that changed)."
        )


def _failures(quality: Quality) -> Iterator[str]:
    if quality.calls < MIN_CANDIDATES:
        return
    failed = sum(quality.failures.values())
    if failed / quality.calls > FAILURE_RATE:
        kind, count = quality.failures.most_common(1)[0]
        yield f"{failed} of {quality.calls} calls failed ({failed / quality.calls:.0%}), most of them {kind} ({count})."
    truncated = quality.failures["truncated"]
    if truncated / quality.calls > TRUNCATED_RATE:
        yield f"{truncated} replies were cut ({truncated / quality.calls:.0%} of the calls): raise the judge's limit."


def _mixture(quality: Quality) -> Iterator[str]:
    if len(quality.configurations) > 1:
        yield f"the file mixes annotations of {len(quality.configurations)} configurations (judge, settings, rubric)."
