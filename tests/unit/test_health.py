"""Rules of a run's verdict on series made by hand that lie just within and just beyond each threshold; the health file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nemo_mm_align.callbacks.health import report_health, verdict
from nemo_mm_align.callbacks.health_series import Series
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.run_files import METRICS_FILE
from nemo_mm_align.core.run_health import (
    HEALTH_FILE,
    Finding,
    ImageEffect,
    ImageMeasurement,
    ImageSensitivity,
    RunHealth,
    read_health,
    write_health,
)

STEPS = 20
Curve = float | tuple[float, float] | list[float]

HEALTHY: dict[str, Curve] = {
    "loss": (0.69, 0.4),
    "learning_rate": 1e-4,
    "gradient_norm": 0.5,
    "entropy": (1.0, 0.9),
    "rewards/accuracies": (0.5, 0.9),
    "rewards/margins": (0.0, 1.0),
    "log_ratio/chosen": (0.0, -3.0),
    "length_chosen": 50.0,
    "length_rejected": 50.0,
    "saturated": (0.0, 0.1),
    "kl/token": (0.0, -0.05),
    "rewards/accuracies_longer": 0.9,
    "rewards/accuracies_shorter": 0.9,
}
"""Of a training on pairs: a number for all steps, or one for either half."""


def series(images: ImageSensitivity | None = None, steps: int = STEPS, **changes: Curve) -> Series:
    curves = HEALTHY | {name.replace("__", "/"): curve for name, curve in changes.items()}

    def value(curve: Curve, step: int) -> float:
        if isinstance(curve, list):
            return curve[step]
        return curve if isinstance(curve, float) else curve[step >= steps // 2]

    lines = [{name: value(curve, step) for name, curve in curves.items()} for step in range(steps)]
    return Series(lines, clip_grad=1.0, images=images)


def sensitivity(effect: float, error: float | None, samples: int = 32) -> ImageSensitivity:
    effects = {"loss": ImageEffect(own=1.0, exchanged=1.0 + effect, effect=effect, standard_error=error)}
    return ImageSensitivity(key="k", samples=samples, end=ImageMeasurement(step=STEPS, effects=effects))


def worries(run: Series) -> list[str]:
    return [finding.rule for finding in verdict(run).worries]


def test_a_healthy_run_says_so_and_brings_its_evidence() -> None:
    found = verdict(series(sensitivity(0.3, 0.1)))
    assert found.summary == "healthy" and found.steps == STEPS
    rules = ["loss", "accuracy", "displacement", "saturation", "distance", "length", "entropy", "gradient", "images"]
    assert [finding.rule for finding in found.findings] == rules
    assert found.findings[0].text == "loss 0.6900 -> 0.4000"


def test_a_recipe_without_pairs_is_judged_by_what_it_tells() -> None:
    lines = [{"loss": 2.0 - step / 20, "gradient_norm": 0.5} for step in range(STEPS)]
    found = verdict(Series(lines))
    assert [finding.rule for finding in found.findings] == ["loss", "gradient"] and found.summary == "healthy"


NOISY = [1.0, 1.2, 1.0, 1.2]
"""Standard error of its mean: 0.2 / sqrt(3) / sqrt(4) = 0.0577; of the change between two such windows 0.0816, twice 0.163."""
MIDDLE = [1.0] * 12
SPIKY = [0.5] * 19

EDGES: dict[str, tuple[str, dict[str, Curve], dict[str, Curve]]] = {
    "does not fall beyond its noise": (
        "loss",
        {"loss": [*NOISY, *MIDDLE, *(value - 0.17 for value in NOISY)]},
        {"loss": [*NOISY, *MIDDLE, *(value - 0.16 for value in NOISY)]},
    ),
    "rises": ("loss", {"loss": (1.0, 0.99)}, {"loss": (1.0, 1.01)}),
    "rate": ("learning rate", {"learning_rate": (0.0, 1e-9)}, {"learning_rate": 0.0}),
    "chance": ("accuracy", {"rewards__accuracies": (0.5, 0.51)}, {"rewards__accuracies": (0.5, 0.5)}),
    "displaced": ("displacement", {"log_ratio__chosen": (0.0, -9.9)}, {"log_ratio__chosen": (0.0, -10.1)}),
    "displaced by token": (
        "displacement",
        {"log_ratio__chosen": (0.0, -20.0), "length_chosen": 201.0, "length_rejected": 201.0},
        {"log_ratio__chosen": (0.0, -20.0), "length_chosen": 199.0, "length_rejected": 199.0},
    ),
    "displaced without a margin": (
        "displacement",
        {"log_ratio__chosen": (0.0, -35.0), "rewards__margins": (0.5, 0.4)},
        {"log_ratio__chosen": (0.0, -35.0), "rewards__margins": (0.4, 0.5)},
    ),
    "saturated": (
        "saturation",
        {"saturated": (0.0, 0.89), "rewards__accuracies": (0.5, 0.99)},
        {"saturated": (0.0, 0.91), "rewards__accuracies": (0.5, 0.99)},
    ),
    "saturated, ranked rightly": (
        "saturation",
        {"saturated": (0.0, 0.95), "rewards__accuracies": (0.5, 0.94)},
        {"saturated": (0.0, 0.95), "rewards__accuracies": (0.5, 0.96)},
    ),
    "far below": ("distance", {"kl__token": (0.0, -0.49)}, {"kl__token": (0.0, -0.51)}),
    "far above": ("distance", {"kl__token": (0.0, 0.49)}, {"kl__token": (0.0, 0.51)}),
    "longer": (
        "length",
        {"length_chosen": 59.0, "rewards__accuracies_shorter": 0.1},
        {"length_chosen": 61.0, "rewards__accuracies_shorter": 0.1},
    ),
    "follows length": (
        "length",
        {"length_chosen": 70.0, "rewards__accuracies_shorter": 0.71},
        {"length_chosen": 70.0, "rewards__accuracies_shorter": 0.69},
    ),
    "collapsed": ("entropy", {"entropy": (1.0, 0.21)}, {"entropy": (1.0, 0.19)}),
    "spikes": ("gradient", {"gradient_norm": [*SPIKY, 4.9]}, {"gradient_norm": [*SPIKY, 5.1]}),
    "spikes after warm-up": ("gradient", {"gradient_norm": [9.0, 9.0, *SPIKY[:18]]}, {"gradient_norm": [*SPIKY, 9.0]}),
    "clipped": (
        "gradient",
        {"gradient_norm": [0.9] * 3 + [1.1] * 17},
        {"gradient_norm": [0.9] * 2 + [1.1] * 18},
    ),
}
"""What is wrong -> the rule that says so, curves just within its threshold and just beyond it."""


@pytest.mark.parametrize("case", EDGES)
def test_each_threshold(case: str) -> None:
    rule, within, beyond = EDGES[case]
    assert worries(series(**within)) == []
    assert worries(series(**beyond)) == [rule]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (sensitivity(0.21, 0.1), []),
        (sensitivity(0.19, 0.1), ["images"]),
        (sensitivity(0.00011, 0.0), []),
        (sensitivity(0.00009, 0.0), ["images"]),
        (sensitivity(0.0, 0.1, samples=8), ["images"]),
        (sensitivity(0.0, 0.1, samples=7), []),
        (ImageSensitivity(key="k", samples=0, why_none="the training data have no images"), []),
    ],
)
def test_images_are_used_where_exchanging_them_exceeds_noise(images: ImageSensitivity, expected: list[str]) -> None:
    assert worries(series(images)) == expected


def test_few_steps_and_none_at_all() -> None:
    assert worries(series(steps=20)) == [] and worries(series(steps=19)) == ["steps"]
    assert worries(Series([])) == ["steps"]


def test_steps_without_a_value_are_passed_over() -> None:
    shorter: list[float] = [math.nan, 0.9, math.nan, 0.9, *[math.nan] * 12, 0.5, math.nan, math.nan, math.nan]
    ends = series(rewards__accuracies_shorter=shorter).ends("rewards/accuracies_shorter")
    assert ends is not None and (ends.first.mean, ends.last.mean) == (0.9, 0.5)
    assert series(rewards__accuracies_shorter=math.nan).ends("rewards/accuracies_shorter") is None


def test_sentences_name_numbers_and_remedies() -> None:
    told = {finding.rule: finding.text for finding in verdict(series(log_ratio__chosen=(0.0, -35.0))).findings}
    assert told["displacement"] == (
        "chosen answers became less likely while the margin grew: -35.0 nats against the reference, -0.70 a token; if "
        "answers get worse, lower model.optim.lr, raise recipe.beta, or set recipe.sft_loss_weight"
    )


def test_the_file_keeps_what_it_holds_and_gets_the_verdict(tmp_path: Path) -> None:
    assert read_health(tmp_path) == RunHealth()
    write_health(tmp_path, RunHealth(images=sensitivity(0.0, 0.1)))
    (tmp_path / METRICS_FILE).write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    report_health(tmp_path, clip_grad=1.0)
    health = read_health(tmp_path)
    assert health.images == sensitivity(0.0, 0.1) and health.schema_version == 1
    assert health.verdict is not None and health.verdict.summary == "look at steps, images"
    assert Finding(rule="loss", worry=False, text="loss 2.0000 -> 1.0000") in health.verdict.findings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 2}', "has schema_version 2, this version reads 1"),
        ("{", "is not what a training run writes"),
    ],
)
def test_a_file_of_another_version_or_none_of_ours_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / HEALTH_FILE
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_health(tmp_path)
