"""Rejection sampling: SFT on the policy's own best answers."""

from __future__ import annotations

from nemo_mm_align.datasets.kinds import ANSWERS
from nemo_mm_align.objectives.imitation import Imitation
from nemo_mm_align.recipes.spec import RecipeSpec

RECIPE = RecipeSpec(
    name="rejection",
    label="Rejection sampling",
    objective=Imitation,
    samples=ANSWERS,
    build_method="rejection",
    data="the best sampled answers",
    colour="#e69f00",
    order=2,
    paper_examples=5034,
    paper_models={"llava15_13b": ""},
)
