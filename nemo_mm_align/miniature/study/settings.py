"""What is studied: variants of recipes in groups, over seeds; the comments in ``conf/study.yaml`` say what each key means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from pydantic import Field, StrictBool, model_validator

from nemo_mm_align.core.configuration import Count, Natural, Positive, Share, StrictModel, read
from nemo_mm_align.core.errors import UserError, suggestion
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.evaluation.results import BASE
from nemo_mm_align.miniature.settings import MiniatureSettings
from nemo_mm_align.recipes.registry import all_recipes

VariantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Points = tuple[tuple[float, float], ...]


class Variant(StrictModel):
    """One way to train, to be compared with others.

    Args:
        groups: in which it stands; the first one names the folder of its figures.
        recipe: by default the one of the variant's name.
        like: recipe whose words in conf/miniature.yaml (``build``, ``train``) it takes; by default its own.
        method: of ``scripts/build.py``; by default the recipe's.
        of: variant that it is a change of, and is compared with.
        share: its place on a curve: of the data, or of wrong labels.
        start: variant whose model it starts from, where the recipe starts from another's; by default the one of that recipe's
            name.
        seeds: by default the most of its groups.
        build, train: further overrides.
        label: in tables; by default its name.
    """

    groups: Annotated[tuple[str, ...], Field(min_length=1)]
    recipe: str | None = None
    like: str | None = None
    method: str | None = None
    of: str | None = None
    share: Share | None = None
    start: str | None = None
    seeds: Count | None = None
    build: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    label: str | None = None


class Size(StrictModel):
    """How large it is: overrides of conf/miniature.yaml, and of every training."""

    miniature: tuple[str, ...] = ()
    train: tuple[str, ...] = ()


class PaperTable(StrictModel):
    """Figures of the paper.

    Args:
        measure: what they are of.
        values: by variant.
    """

    measure: str
    values: dict[str, float]


class PaperCurve(StrictModel):
    """A curve of the paper.

    Args:
        measure: what it is of.
        of: variant.
        base: the paper's figure of the model that training started from.
        points: share and figure.
    """

    measure: str
    of: str
    base: float
    points: Points


class Paper(StrictModel):
    """What the paper says, for comparison: its main table, and curves by the group that has ours."""

    source: str
    tables: tuple[PaperTable, ...]
    curves: dict[str, PaperCurve]


class StudySettings(StrictModel):
    """The whole study, as in ``conf/study.yaml``."""

    out: Path
    groups: tuple[str, ...] | None
    only: tuple[str, ...] | None
    minutes: Positive | None
    parallel: Count
    report: Literal["end", "only"]
    keep: StrictBool
    size: Size
    first_seed: Natural
    seeds: dict[str, Count]
    against: dict[str, tuple[str, ...]]
    curves: dict[str, Share]
    about: dict[str, str] = {}
    miniature: tuple[str, ...]
    variants: dict[VariantName, Variant]
    paper: Paper | None

    @model_validator(mode="after")
    def _names_are_known(self) -> StudySettings:
        _check("groups", self.groups or (), self.seeds)
        _check("only", self.only or (), self.variants)
        _check("curves", [*self.curves], self.seeds)
        _check("about", [*self.about], self.seeds)
        for group, others in self.against.items():
            _check("against", [group], self.seeds)
            _check(f"against.{group}", others, self.variants)
        for name, variant in self.variants.items():
            where = f"variants.{name}"
            _check(f"{where}.groups", variant.groups, self.seeds)
            _check(f"{where}.of", [variant.of] if variant.of else [], self.variants)
            _check(f"{where}.start", [variant.start] if variant.start else [], self.variants)
        return self

    def recipe_of(self, name: str) -> str | None:
        """Return the recipe of a variant; None for the base.

        Raises:
            UserError: there is no such recipe, or its models answer nothing.
        """
        if name == BASE:
            return None
        recipe = self.variants[name].recipe or name
        if recipe not in all_recipes():
            raise UserError(f"variants.{name}: no recipe is called {recipe!r}.{suggestion(recipe, all_recipes())}")
        if all_recipes()[recipe].rates:
            raise UserError(
                f"variants.{name}: {recipe} makes a model that rates answers; the study asks its models for some."
            )
        return recipe

    def start_of(self, name: str) -> str | None:
        """Return the variant whose model a variant starts from; None for the base.

        Raises:
            UserError: its recipe starts from another's model, and no variant makes that.
        """
        recipe = self.recipe_of(name)
        before = all_recipes()[recipe].after if recipe else None
        if before is None:
            return None
        start = self.variants[name].start or before
        if start not in self.variants:
            raise UserError(f"variants.{name}: {recipe} starts from a model of {before}; add a variant of that name.")
        return start

    def change_of(self, name: str) -> str:
        """Return what a variant is beside the recipe of its name, as its line and a command line say it; "" for nothing."""
        variant = self.variants[name]
        said = [
            f"{key}={value}"
            for key in ("recipe", "like", "method", "start")
            if (value := getattr(variant, key)) not in (None, name)
        ]
        return " ".join((*said, *variant.build, *variant.train))

    def is_on_a_curve(self, name: str) -> bool:
        """Whether a variant stands in groups alone that are curves: of less data, or of worse."""
        return {*self.variants[name].groups} <= {*self.curves}

    def seeds_of(self, name: str) -> list[int]:
        """Return the seeds of a variant."""
        variant = self.variants[name]
        count = variant.seeds or max(self.seeds[group] for group in variant.groups)
        return [self.first_seed + index for index in range(count)]

    def names_in(self, group: str) -> list[str]:
        """Return the variants of a group."""
        return [name for name, variant in self.variants.items() if group in variant.groups]

    def selected(self) -> Iterator[tuple[str, int]]:
        """Yield variant and seed of every cell that is asked for: seed by seed, so that any slice compares all."""
        names = [name for name, variant in self.variants.items() if self._is_selected(name, variant)]
        seeds = sorted({seed for name in names for seed in self.seeds_of(name)})
        return ((name, seed) for seed in seeds for name in names if seed in self.seeds_of(name))

    def _is_selected(self, name: str, variant: Variant) -> bool:
        in_group = self.groups is None or bool({*self.groups} & {*variant.groups})
        return in_group and (self.only is None or name in self.only)


def _check(key: str, names: Sequence[str], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{key}: there is no {name!r}.{suggestion(name, known)}")


def miniature_settings(study: StudySettings) -> MiniatureSettings:
    """Return the settings of the miniature that the study stands on: conf/miniature.yaml with the study's overrides."""
    words = [*study.miniature, *study.size.miniature, f"first_seed={study.first_seed}", "methods=[]"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base=None):
        values: Any = OmegaConf.to_container(compose("miniature", words), resolve=True)
    return read(MiniatureSettings, values | {"out": str(study.out)}, "miniature")
