"""SteerLM: likelihood of answers whose prompts ask for the attributes that they have (Dong et al., arXiv 2310.05344).

Of what is judged, prompts ask for the matters of taste; quality is chosen by when the set is built.
"""

from __future__ import annotations

from nemo_mm_align.datasets.kinds import ATTRIBUTED_ANSWERS
from nemo_mm_align.objectives.imitation import ConditionedImitation
from nemo_mm_align.recipes.spec import RecipeSpec

RECIPE = RecipeSpec(
    name="steerlm",
    label="SteerLM",
    objective=ConditionedImitation,
    samples=ATTRIBUTED_ANSWERS,
    build_method="steerlm",
    data="answers with their attributes",
    colour="#009e73",
    order=3,
    paper_examples=26000,
)
