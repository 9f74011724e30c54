"""Kahneman-Tversky optimisation: single answers, each desirable or not (Ethayarajh et al., arXiv 2402.01306)."""

from __future__ import annotations

from nemo_mm_align.datasets.kinds import LABELLED_ANSWERS
from nemo_mm_align.objectives.kto import KahnemanTversky
from nemo_mm_align.recipes.spec import RecipeSpec

RECIPE = RecipeSpec(
    name="kto",
    label="KTO",
    objective=KahnemanTversky,
    samples=LABELLED_ANSWERS,
    build_method="labelled",
    data="labelled answers",
    colour="#1b7f79",
)
