"""How far the losses and gradients of one step lie from another's, relative to their size."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def relative(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of the expected tensor."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))


def gradient_differences(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Relative difference of each gradient.

    A bias of keys shifts all scores of a query alike, so that its gradient is zero but for rounding: the gradient of the
    queries' bias is its scale.
    """
    assert actual.keys() == expected.keys(), actual.keys() ^ expected.keys()
    differences = {}
    for name, value in expected.items():
        scale = expected[name.replace("k_proj.bias", "q_proj.bias")].double().norm()
        differences[name] = float((actual[name].double() - value.double()).norm() / scale)
    return differences


def step_differences(actual: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Differences of ``loss``, ``token_losses`` and, the worst of all, ``gradient``; how many there are and which is worst."""
    differences = gradient_differences(actual["gradients"], expected["gradients"])
    worst = max(differences, key=lambda name: differences[name])
    return {
        "loss": abs(actual["loss"] - expected["loss"]) / expected["loss"],
        "token_losses": relative(actual["token_losses"], expected["token_losses"]),
        "gradient": differences[worst],
        "worst": worst,
        "gradients": len(differences),
    }
