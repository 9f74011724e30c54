"""What a recipe is to the rest of the system; importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.datasets.kinds import SampleKind
from nemo_mm_align.objectives.objective import Objective

PAPER_PROMPTS = 6000
"""Prompts that the paper's training sets were made of (Li, Lin and Pei, arXiv 2402.10884; the file names of its code)."""


@dataclass(frozen=True)
class RecipeSpec:
    """A training method.

    Args:
        name: as in ``recipe=NAME``; see `conf`.
        label: as readers of a report see it.
        objective: the settings of its section, which are its objective.
        samples: what it is trained on.
        build_method: of ``scripts/build.py``, that makes such data.
        data: these data in words.
        colour: in plots, ``#rrggbb``.
        after: recipe whose model it starts from; None for one that starts from a model as it comes.
        order: its place in tables; those of one order stand by name.
        paper_examples: size of its training set in the paper, for which experiments are shipped; None for the others.
        paper_models: models that the paper trained by it, each with what is to be said of that run ("" for nothing); experiments
            ``paper/...`` are shipped for them.
        conf: folder in which ``recipe/NAME.yaml`` holds its default values.
    """

    name: str
    label: str
    objective: type[Objective]
    samples: SampleKind
    build_method: str
    data: str
    colour: str
    after: str | None = None
    order: int = 100
    paper_examples: int | None = None
    paper_models: Mapping[str, str] = field(default_factory=dict)
    conf: Path = CONF

    @property
    def rates(self) -> bool:
        """Whether its models have a head that rates answers, and give none themselves."""
        return self.objective.head is not Objective.head

    def usual_examples(self, prompts: int, candidates: float) -> int:
        """Return how many examples are usually made of prompts: one of each candidate where prompts carry attributes and
        examples are single answers, else the paper's share of the prompts, else one per prompt.
        """
        if self.samples.attributed and self.samples.usual_sequences == 1:
            return round(prompts * candidates)
        return round(prompts * (self.paper_examples or PAPER_PROMPTS) / PAPER_PROMPTS)

    def configured(self, **changes: Any) -> Objective:
        """Return the objective with its default values, some of them changed; raise `UserError` for a wrong one."""
        path = self.conf / "recipe" / f"{self.name}.yaml"
        defaults = yaml.safe_load(path.read_text(encoding="utf-8"))["recipe"]
        return read(self.objective, {**defaults, **changes}, "recipe")
