"""Rules of a verdict on what was watched while a model was trained: held-out data, and answers of its own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from nemo_mm_align.callbacks.health_series import Series
from nemo_mm_align.core.run_health import Finding

VALIDATION, TRAINING = "validation/loss", "loss"

RISING = 3
"""Validations after the best one that are all worse: of a loss that only wavers, three in a row are rarer than one in eight."""

EMPTY, REPEATING = 0.1, 0.25
"""By how much the share of empty answers, and of those that repeat eight words, may grow since the beginning."""


def overfitting(run: Series) -> Finding | None:
    """Does the held-out loss rise while that of training goes on falling?"""
    lines = [line for line in run.validation if math.isfinite(line.get(VALIDATION, math.nan))]
    if not lines:
        return None
    place = min(range(len(lines)), key=lambda index: lines[index][VALIDATION])
    best, last = lines[place], lines[-1]
    text = f"validation loss {last[VALIDATION]:.4f} after step {last['step']:.0f}, measured once"
    if len(lines) > 1:
        text = f"validation loss {lines[0][VALIDATION]:.4f} -> {last[VALIDATION]:.4f}, "
        text += f"best {best[VALIDATION]:.4f} after step {best['step']:.0f}"
    since = len(lines) - 1 - place
    if since < RISING or not _falls(run.lines, best["step"]):
        return Finding(rule="overfitting", worry=False, text=text)
    return Finding(
        rule="overfitting",
        worry=True,
        text=f"{text}: worse in all {since} validations since, while the training loss went on falling: the model learns the "
        "training data by heart; take the best checkpoint (RUN/best), fewer recipe.epochs, a lower model.optim.lr, or more data",
    )


def _falls(lines: Sequence[Mapping[str, float]], step: float) -> bool:
    """Whether the training loss is lower after a step than in as many steps before it."""
    after = [line[TRAINING] for line in lines if line["step"] > step and math.isfinite(line[TRAINING])]
    before = [line[TRAINING] for line in lines if line["step"] <= step and math.isfinite(line[TRAINING])][-len(after) :]
    return bool(after and before) and statistics.fmean(after) < statistics.fmean(before)


def validation_accuracy(run: Series) -> Finding | None:
    """Are pairs that were not trained on ranked better than by chance?"""
    known = [line for line in run.validation if math.isfinite(line.get("validation/rewards/accuracies", math.nan))]
    if not known:
        return None
    right, margin = known[-1]["validation/rewards/accuracies"], known[-1]["validation/rewards/margins"]
    text = f"reward accuracy {right:.2f}, margin {margin:.3f} on held-out pairs at the end"
    if right > 0.5:
        return Finding(rule="validation accuracy", worry=False, text=text)
    return Finding(
        rule="validation accuracy",
        worry=True,
        text=f"{text}: no better than chance on pairs that were not trained on; check that both sets were built alike, or take "
        "more pairs",
    )


def answers(run: Series) -> Finding | None:
    """Are its own answers still of the length that they had, and neither empty nor stuck?"""
    if len(run.guards) < 2:
        return None
    first, last = run.guards[0], run.guards[-1]
    text = (
        f"answers of {first['guards/words']:.1f} -> {last['guards/words']:.1f} words, {_percent(last, 'empty')} empty, "
    )
    text += f"{_percent(last, 'cut')} cut at the limit, {_percent(last, 'repeating')} repeating themselves"
    faults = faults_of(first, last, run.lengths)
    if not faults:
        return Finding(rule="answers", worry=False, text=text)
    remedy = (
        "look at them (metrics/guard_answers.jsonl), take an earlier checkpoint, lower model.optim.lr or recipe.epochs"
    )
    return Finding(rule="answers", worry=True, text=f"{text}: {', '.join(faults)}; {remedy}")


def faults_of(first: Mapping[str, float], last: Mapping[str, float], lengths: tuple[float, float]) -> list[str]:
    """Return in words what has become worse since the first answers.

    Args:
        lengths: multiples of the first answers' length below and above which is spoken of.
    """
    words, before, (shortest, longest) = last["guards/words"], first["guards/words"], lengths
    faults = []
    if words < shortest * before:
        faults.append(f"they became shorter than {shortest:g} times what they were")
    if words > longest * before:
        faults.append(f"they became longer than {longest:g} times what they were")
    if last["guards/empty"] - first["guards/empty"] > EMPTY:
        faults.append("more of them are empty")
    if last["guards/repeating"] - first["guards/repeating"] > REPEATING:
        faults.append("more of them repeat themselves")
    return faults


def _percent(line: Mapping[str, float], name: str) -> str:
    return f"{100 * line[f'guards/{name}']:.0f} %"
