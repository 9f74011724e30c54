"""SteerLM 2.0: answers as likely under what was asked for as Bayes' rule says (Wang et al., arXiv 2406.08673, section 4.5).

Goes on from a SteerLM model, whose samples are weighed by an attribute model.
"""

from __future__ import annotations

from nemo_mm_align.datasets.kinds import WEIGHED_ANSWERS
from nemo_mm_align.objectives.posterior import PosteriorMatching
from nemo_mm_align.recipes.spec import RecipeSpec

RECIPE = RecipeSpec(
    name="steerlm2",
    label="SteerLM 2.0",
    objective=PosteriorMatching,
    samples=WEIGHED_ANSWERS,
    build_method="steerlm2",
    data="weighed answers under attributes",
    colour="#117733",
    after="steerlm",
    order=6,
)
