"""Direct preference optimisation (Rafailov et al., arXiv 2305.18290), and by ``loss_type`` its relatives, alone or together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from nemo_mm_align.objectives.loss_menu import NamedLosses
from nemo_mm_align.objectives.pair_losses import LossName
from nemo_mm_align.recipes.pairs import pair_recipe


@dataclass(frozen=True)
class DirectPreference(NamedLosses):
    """`Sigmoid`, or what `loss_type` names."""

    loss_type: LossName | Annotated[tuple[LossName, ...], Field(min_length=1)]


RECIPE = pair_recipe(
    "dpo",
    "DPO",
    DirectPreference,
    "#cc3d5c",
    order=4,
    paper_examples=5084,
    paper_models={
        "llava15_13b": "",
        "llava15_7b": (
            "The paper publishes neither beta nor learning rate of its 7B run (its search: beta 0.3 and 0.5, lr 5e-5 and "
            "5e-6): these are the 13B's. Its 7B data also held 6,000 pairs of text alone from HelpSteer."
        ),
    },
)
