"""Supervised fine-tuning on reference answers."""

from __future__ import annotations

from nemo_mm_align.datasets.kinds import ANSWERS
from nemo_mm_align.objectives.imitation import Imitation
from nemo_mm_align.recipes.spec import RecipeSpec

RECIPE = RecipeSpec(
    name="sft",
    label="SFT",
    objective=Imitation,
    samples=ANSWERS,
    build_method="sft",
    data="records with reference answers",
    colour="#0072b2",
    order=1,
    paper_examples=5084,
    paper_models={"llava15_13b": ""},
)
