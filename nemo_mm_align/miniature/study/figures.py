"""The figures of one cell, a variant and a seed: a small file that needs nothing else and can be carried between machines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.results import Section


class Level(Section):
    """Answers that were asked for one value: means of what was judged, of the score, correctness and words."""

    asked: float
    judged: float
    score: float
    correctness: float | None = None
    words: float


class Steering(Section):
    """How one attribute follows what is asked; the figures are those of `SteeringResult`."""

    spearman: float
    mae: float
    at_equal_length: float | None = None
    slope: float | None = None
    cross_talk: dict[str, float] = {}
    levels: list[Level]


class Offer(Section):
    """What a model offers to who steers matters of taste, over all their values, asked one attribute at a time.

    Args:
        quality: mean score.
        error: mean of |judged - asked|; a model that takes no requests gives its one answer to each.
    """

    quality: float
    error: float


class Spent(Section):
    """What the cell took: seconds by the clock and of cores, of its training and in all (steps of an earlier slice included)."""

    training_seconds: float | None = None
    training_cpu_seconds: float | None = None
    seconds: float
    cpu_seconds: float


class Trained(Section):
    """What the training consisted of."""

    examples: int | None = None
    steps: int | None = None
    epochs: float | None = None
    health: str | None = None


class CellFigures(Section):
    """One cell.

    Args:
        variant, recipe, seed: which; no recipe: the base.
        settings_hash: of `settings`, by which it is known whether the cell has to be run again.
        settings: everything that its figures depend on, but the code.
        commit: of the code, marked where files had changed since.
        measured: by request ("": the attributes' defaults where it takes requests; "unasked", "brief") and measure, means
            over the held-out prompts.
        base: the same of the base.
        text_before_visual_tuning: share of text instructions that the base followed before it saw images.
        length_controlled: by request: the score less the base's at equal length.
        steering: by attribute; empty where it takes no requests.
    """

    format: Literal[1] = 1
    variant: str
    recipe: str | None
    seed: int
    settings_hash: str
    settings: dict[str, Any]
    commit: str
    versions: dict[str, str]
    machine: str
    date: str
    measured: dict[str, dict[str, float]]
    base: dict[str, float]
    text_before_visual_tuning: float | None = None
    length_controlled: dict[str, float] = {}
    steering: dict[str, Steering] = {}
    offer: Offer
    training: Trained | None = None
    spent: Spent


def figures_path(out: Path, group: str, variant: str, seed: int) -> Path:
    """Return where the figures of a cell lie."""
    return out / "figures" / group / variant / f"seed_{seed}.json"


def read_figures(path: Path) -> CellFigures:
    """Return the figures of a cell; raise `UserError` where the file is damaged or of another version."""
    try:
        return CellFigures.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "file"
        raise UserError(
            f"{path}: these are no figures of a cell ({where}: {fault['msg']}). Fetch the file again, or remove it: the cell "
            "is then run once more."
        ) from None


def all_figures(out: Path) -> Iterator[tuple[Path, CellFigures]]:
    """Yield all figures below a folder with their files."""
    for path in sorted((out / "figures").glob("*/*/seed_*.json")):
        yield path, read_figures(path)


def write_figures(path: Path, figures: CellFigures) -> None:
    """Write the figures of a cell in one go."""
    write_text(path, figures.model_dump_json(indent=1) + "\n")
