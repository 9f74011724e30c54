"""Attribute model: a head on the multimodal model tells the attributes of an answer (SteerLM's regression reward model)."""

from __future__ import annotations

from nemo_mm_align.datasets.kinds import RATED_ANSWERS
from nemo_mm_align.objectives.rating import Rating
from nemo_mm_align.recipes.spec import RecipeSpec

RECIPE = RecipeSpec(
    name="attribute_model",
    label="Attribute model",
    objective=Rating,
    samples=RATED_ANSWERS,
    build_method="attribute_model",
    data="prompts with rated answers",
    colour="#332288",
)
