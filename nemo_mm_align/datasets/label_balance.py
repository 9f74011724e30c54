"""Whether desirable and undesirable answers weigh alike."""

from __future__ import annotations

LEAST, MOST = 1.0, 4 / 3
"""desirable_weight x desirable answers / (undesirable_weight x undesirable answers) is to lie in this range (TRL's rule)."""


def weight_hint(
    desirable: int, undesirable: int, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> str | None:
    """Return what to set where the two are out of balance, or to do where there is one kind alone; None where all is well.

    Args:
        desirable, undesirable: how many answers there are.
        desirable_weight, undesirable_weight: as they are set.
    """
    if (desirable > 0) != (undesirable > 0):
        found, missing = ("desirable", "undesirable") if desirable else ("undesirable", "desirable")
        return (
            f"all {desirable + undesirable:,} answers are {found}: how they differ from {missing} ones is not learned. Give "
            "both, for example by another method.threshold of scripts/build.py."
        )
    if not (desirable and undesirable_weight and desirable_weight):
        return None
    ratio = desirable_weight * desirable / (undesirable_weight * undesirable)
    if LEAST - 0.005 <= ratio <= MOST + 0.005:  # weights are given with two digits
        return None
    low, high = (desirable_weight / ratio * end for end in (LEAST, MOST))
    least, most = (undesirable_weight * ratio / end for end in (MOST, LEAST))
    return (
        f"{desirable:,} desirable and {undesirable:,} undesirable answers: with recipe.desirable_weight={desirable_weight:g} and "
        f"recipe.undesirable_weight={undesirable_weight:g} the former weigh {ratio:.2f} times the latter, where TRL advises 1 to "
        f"1.33. Set recipe.desirable_weight from {low:.2f} to {high:.2f}, or recipe.undesirable_weight from {least:.2f} to "
        f"{most:.2f}, not both."
    )
