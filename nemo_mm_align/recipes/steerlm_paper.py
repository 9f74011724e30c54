"""SteerLM as in the paper (Li, Lin and Pei, arXiv 2402.10884): every candidate, its prompt asking for all attributes."""

from __future__ import annotations

from nemo_mm_align.datasets.kinds import ATTRIBUTED_ANSWERS
from nemo_mm_align.objectives.imitation import ConditionedImitation
from nemo_mm_align.recipes.spec import RecipeSpec

RECIPE = RecipeSpec(
    name="steerlm_paper",
    label="SteerLM (paper)",
    objective=ConditionedImitation,
    samples=ATTRIBUTED_ANSWERS,
    build_method="steerlm_paper",
    data="answers with all their attributes",
    colour="#66c2a5",
    order=3,
    paper_models={"llava15_13b": ""},
)
