"""A study on disk: what its cells are made of, by which hash they are known, and where everything lies.

OUT/world, OUT/base               as of the miniature; the base's answers to the held-out prompts
OUT/seed_N/                       what the cells of a seed share: judged answers of the base and of models that others start from
OUT/cells/VARIANT/seed_N/         training set, run and answers of a cell, until its figures stand
OUT/figures/GROUP/VARIANT/        figures, one file a cell
OUT/logs, OUT/done                of every step
OUT/results.json, cells.csv, study.md, plots
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.hashing import hash_json
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.evaluation.results import BRIEF, UNASKED
from nemo_mm_align.miniature.base_steps import digest
from nemo_mm_align.miniature.folders import SHIPPED_BASE, MiniatureRun
from nemo_mm_align.miniature.oracle import RULES
from nemo_mm_align.miniature.study.figures import CellFigures, figures_path, read_figures
from nemo_mm_align.miniature.study.settings import StudySettings, Variant, miniature_settings
from nemo_mm_align.recipes.registry import find_recipe


@dataclass(frozen=True)
class Cell:
    """A variant and a seed."""

    variant: str
    seed: int

    @property
    def tag(self) -> str:
        """Begins the names of its steps."""
        return f"seed{self.seed}_{self.variant}"

    def __str__(self) -> str:
        return f"{self.variant} seed {self.seed}"


class Study:
    """The settings of a study, its files and its cells.

    Raises:
        UserError: settings that do not fit.
    """

    def __init__(self, settings: StudySettings) -> None:
        self.settings = settings
        self.out = settings.out
        self.run = MiniatureRun(miniature_settings(settings))
        self.cells = [Cell(name, seed) for name, seed in settings.selected()]
        self._hashes: dict[Cell, str] = {}
        for cell in self.cells:
            self.hash_of(cell)

    def variant(self, cell: Cell) -> Variant:
        """Return what a cell is of."""
        return self.settings.variants[cell.variant]

    def start_of(self, cell: Cell) -> Cell | None:
        """Return the cell whose model a cell starts from; None for the base."""
        start = self.settings.start_of(cell.variant)
        return Cell(start, cell.seed) if start else None

    def is_steered(self, cell: Cell) -> bool:
        """Whether a cell's model is asked for attributes."""
        recipe = self.settings.recipe_of(cell.variant)
        return recipe is not None and find_recipe(recipe).samples.attributed

    def requests_of(self, cell: Cell) -> dict[str, list[str]]:
        """Return what a cell's model is asked for, by the name of the answers: "" at the attributes' defaults."""
        if not self.is_steered(cell):
            return {"": []}
        brief = self.run.settings.brief
        asked = {"": ["ask_defaults=true"], UNASKED.strip("_"): []}
        return asked | (
            {BRIEF.strip("_"): [f"attributes.{name}={value:g}" for name, value in brief.items()]} if brief else {}
        )

    def folder(self, cell: Cell) -> Path:
        """Everything heavy of a cell."""
        return self.out / "cells" / cell.variant / f"seed_{cell.seed}"

    def trained(self, cell: Cell) -> Path:
        """The run of a cell."""
        return self.folder(cell) / "run"

    def answers(self, cell: Cell, request: str) -> Path:
        """A cell's answers to the held-out prompts, or under every value of every attribute (``steering``)."""
        return self.folder(cell) / "answers" / f"{request or 'asked'}.jsonl"

    @property
    def base_answers(self) -> Path:
        """The base's answers to the held-out prompts: greedy, the same for all seeds."""
        return self.out / "base" / "answers.jsonl"

    def merged(self, start: Cell) -> Path:
        """The model of a cell that others start from, as a Hugging Face folder."""
        return self.run.seed_folder(start.seed) / f"{start.variant}_merged"

    def figures(self, cell: Cell) -> Path:
        """The figures of a cell."""
        return figures_path(self.out, self.variant(cell).groups[0], cell.variant, cell.seed)

    def finished(self, cell: Cell) -> CellFigures | None:
        """Return the figures of a cell if they are of these settings; raise `UserError` where the file is damaged."""
        path = self.figures(cell)
        found = read_figures(path) if path.is_file() else None
        return found if found is not None and found.settings_hash == self.hash_of(cell) else None

    def words(self, cell: Cell, kind: str) -> list[str]:
        """Return the overrides of a cell's ``build`` or ``train``; of several of one key the last stands."""
        variant, own = self.variant(cell), self.run.settings
        like = variant.like or self.settings.recipe_of(cell.variant) or ""
        if kind == "build":
            return _last_of_each([*own.build.get(like, ()), *variant.build])
        return _last_of_each([*own.train["all"], *own.train.get(like, ()), *variant.train, *self.settings.size.train])

    def method(self, cell: Cell) -> str:
        """Return the build method of a cell that trains."""
        return self.variant(cell).method or find_recipe(self.settings.recipe_of(cell.variant) or "").build_method

    @cached_property
    def world_settings(self) -> dict[str, Any]:
        """What all cells depend on: world, base, how answers are drawn and judged, defaults of trainings."""
        own = self.run.settings.model_dump(
            mode="json", include={"world", "base", "sampling", "evaluate_on", "steering_prompts", "brief", "model"}
        )
        schema = self.run.settings.attribute_schema.fingerprint
        usual: dict[str, Any] = yaml.safe_load((CONF / "train.yaml").read_text(encoding="utf-8"))["model"]
        return own | {"base_sha256": digest(SHIPPED_BASE), "schema": schema, "rules": RULES, "training": usual}

    def settings_of(self, cell: Cell) -> dict[str, Any]:
        """Return everything that the figures of a cell depend on, but the code."""
        found: dict[str, Any] = {"world": self.world_settings, "seed": cell.seed}
        recipe = self.settings.recipe_of(cell.variant)
        if recipe is None:
            return found
        start = self.start_of(cell)
        return found | {
            "recipe": _defaults("recipe", recipe),
            "method": _defaults("method", self.method(cell)),
            "build": self.words(cell, "build"),
            "train": self.words(cell, "train"),
            "start": self.hash_of(start) if start else None,
        }

    def hash_of(self, cell: Cell) -> str:
        """Return the hash of `settings_of`."""
        if cell not in self._hashes:
            self._hashes[cell] = hash_json(self.settings_of(cell))
        return self._hashes[cell]

    def unfinished(self) -> list[Cell]:
        """Return the cells that have to be run."""
        return [cell for cell in self.cells if self.finished(cell) is None]

    def tidy(self) -> None:
        """Remove what is heavy of finished cells, unless an unfinished one starts from it, selected or not, or all is kept."""
        if self.settings.keep:
            return
        after = [(cell, start) for cell in self._known_cells() if (start := self.start_of(cell))]
        needed = {*self.unfinished(), *(start for cell, start in after if self.finished(cell) is None)}
        for cell in dict.fromkeys([*self.cells, *(start for _, start in after)]):
            if cell not in needed:
                shutil.rmtree(self.folder(cell), ignore_errors=True)

    def _known_cells(self) -> Iterator[Cell]:
        """Every cell of the settings whose recipe there is; what is not asked for now may be later."""
        for name in self.settings.variants:
            try:
                self.settings.start_of(name)
            except UserError:
                continue
            yield from (Cell(name, seed) for seed in self.settings.seeds_of(name))


def _last_of_each(words: Sequence[str]) -> list[str]:
    by_key: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0].lstrip("+")
        by_key.pop(key, None)
        by_key[key] = word
    return list(by_key.values())


def _defaults(group: str, name: str) -> Mapping[str, Any]:
    """The values of an option in conf/, by which a change of a default is noticed."""
    values: dict[str, Any] = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return values
