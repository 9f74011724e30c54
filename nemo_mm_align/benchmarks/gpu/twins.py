"""Step ``fp8``: each kind of FP8 beside bf16, from the same weights on the same batches: how fast, and how near.

Compared is the whole gradient, of adapters and projector, at the same weights: of the first pass, where delayed scaling has
no history yet, and of a later one. Then each twin trains for a few steps without dropout, first by likelihood of the answers,
then by DPO with its own reference log-probs, and their losses are compared.

The weights are random, which is harder on a number format than trained ones: errors of 32 layers add up with nothing to hold
them together. What bf16 itself is worth there is measured as well: its twin with megatron-core's own layers rounds at other
places.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_mm_align.benchmarks.gpu import clock, levers
from nemo_mm_align.benchmarks.gpu.bench import TrainingBench, with_bench
from nemo_mm_align.benchmarks.gpu.records import Context
from nemo_mm_align.benchmarks.gpu.shapes import Rows
from nemo_mm_align.benchmarks.recipes import IMITATION, PREFERENCE

KINDS = ("fp8_tensorwise", "fp8_delayed", "fp8_blockwise")
STEPS, PASSES = 5, 4
"""Steps of training; passes before it that change no weight."""
AS_BF16, NEAR_BF16 = (0.005, 0.99), (0.05, 0.90)
"""Largest relative distance of a loss, least cosine of the gradients: for both verdicts that are good."""
_LR = 1e-4
_ROWS = Rows(2, multiple=16)

Gradient = dict[str, Tensor]


@dataclass
class Track:
    """What a twin went through."""

    first: Gradient
    later: Gradient
    likelihood: list[float]
    preference: list[float]


def measure(context: Context) -> None:
    """bf16, then its twins; on a CPU fp32 stands in for all of them, so that a dry run goes the same way."""
    tracks: dict[str, Track] = {}

    def follow_bf16(bench: TrainingBench) -> None:
        tracks["bf16"] = followed(bench)
        bench.case(Rows(4))

    def compare(bench: TrainingBench) -> None:
        if "bf16" in tracks:
            context.recorder.case(f"{bench.label}, twin", lambda: distance(tracks["bf16"], followed(bench)))
        bench.case(Rows(4), profile=bench.engine_config.precision == KINDS[0])

    with_bench(context, follow_bf16, drawn=True, lr=_LR)
    for precision in KINDS if clock.cuda() else (*KINDS, "fp32"):
        with_bench(context, compare, precision=precision, drawn=True, lr=_LR)
    if clock.cuda():
        with_bench(context, compare, drawn=True, lr=_LR, implementation="local")


def followed(bench: TrainingBench) -> Track:
    """Train a twin without dropout."""
    clock.free()
    with levers.pulled(bench.engine.model, ("no dropout",)):
        return _follow(bench)


def _follow(bench: TrainingBench) -> Track:
    """Pass without training, then train on two batches in turn."""
    batches = [bench.batch(_ROWS, seed=seed) for seed in (0, 1)]
    bench.use_method(IMITATION)
    with _unchanged_weights(bench):
        bench.train([batches[0]])
        first = gradient(bench)
        for number in range(1, PASSES):
            bench.train([batches[number % 2]])
        later = gradient(bench)
    likelihood = [bench.train([batches[step % 2]]) for step in range(STEPS)]
    bench.use_method(PREFERENCE)
    batches = [bench.referenced(batch) for batch in batches]
    return Track(first, later, likelihood, [bench.train([batches[step % 2]]) for step in range(STEPS)])


@contextmanager
def _unchanged_weights(bench: TrainingBench) -> Iterator[None]:
    """Leave the optimizer's update out."""
    optimizer = bench.engine.optimizer
    optimizer.step_with_ready_grads = lambda: True
    try:
        yield
    finally:
        del optimizer.step_with_ready_grads  # the class's own again


def gradient(bench: TrainingBench) -> Gradient:
    """The last pass's gradient by parameter, fp32, on the host; clipping has scaled all of it alike."""
    return {
        name: parameter.main_grad.detach().to("cpu", torch.float32, copy=True)  # room for the next twin
        for name, parameter in bench.engine.model.named_parameters()
        if parameter.requires_grad and hasattr(parameter, "main_grad")
    }


def cosine(ours: Gradient, theirs: Gradient) -> float:
    """Cosine of two whole gradients; NaN where one is zero or not finite."""
    if ours.keys() != theirs.keys():
        raise ValueError("the twins do not train the same parameters")
    sums = [0.0, 0.0, 0.0]
    for name, own in ours.items():
        for place, (left, right) in enumerate(((own, theirs[name]), (own, own), (theirs[name], theirs[name]))):
            sums[place] += float((left * right).sum(dtype=torch.float64))
    length = math.sqrt(sums[1] * sums[2])
    return sums[0] / length if length > 0 else math.nan


def loss_distance(found: list[float], expected: list[float]) -> float:
    """Largest relative distance of a step's loss; NaN where a loss is not a number."""
    distances = [abs(ours - theirs) / abs(theirs) for ours, theirs in zip(found, expected, strict=True)]
    return max(distances) if all(map(math.isfinite, distances)) else math.nan


def verdict(distance: float, similarity: float) -> str:
    """The comparison in words."""
    if not (math.isfinite(distance) and math.isfinite(similarity)):
        return "not a number: do not train with it"
    for (loss_limit, cosine_limit), text in ((AS_BF16, "trains as bf16"), (NEAR_BF16, "trains near bf16")):
        if distance <= loss_limit and similarity >= cosine_limit:
            return text
    return "far from bf16 on random weights: compare a run of yours"


def distance(bf16: Track, twin: Track) -> dict[str, Any]:
    """Values for a record."""
    loss, similarity = loss_distance(twin.likelihood, bf16.likelihood), cosine(bf16.later, twin.later)
    return {
        "loss_distance": round(loss, 6),
        "dpo_loss_difference": round(max(abs(x - y) for x, y in zip(twin.preference, bf16.preference, strict=True)), 6),
        "gradient_cosine_first": round(cosine(bf16.first, twin.first), 6),
        "gradient_cosine": round(similarity, 6),
        "verdict": verdict(loss, similarity),
        "losses": clock.rounded(twin.likelihood),
        "bf16_losses": clock.rounded(bf16.likelihood),
        "dpo_losses": clock.rounded(twin.preference),
        "bf16_dpo_losses": clock.rounded(bf16.preference),
    }
