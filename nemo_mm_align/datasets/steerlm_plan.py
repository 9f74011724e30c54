"""Which answers stand in which rows of a mixture for attribute-conditioned training; see `build_steerlm`."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.datasets.build_summary import BuildSummary
from nemo_mm_align.datasets.candidates import TOLERANCE, usable_candidates
from nemo_mm_align.datasets.quotas import apportion, draw_evenly
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Annotation

Place = tuple[str, int]
"""A candidate: its prompt's id, its number among that prompt's."""

Cell = tuple[float, ...]
"""Values of the attributes that are asked for, in schema order; fractions as the nearest step of a sweep."""


@dataclass
class Pools:
    """What rows can be drawn of."""

    good: dict[Cell, list[Place]] = field(default_factory=lambda: defaultdict(list))
    """Candidates that reach the least score, by their ratings."""
    other: dict[Cell, list[Place]] = field(default_factory=lambda: defaultdict(list))
    best: list[Place] = field(default_factory=list)
    """Of each prompt the best candidate, where it reaches the least score."""
    right: list[Place] = field(default_factory=list)
    """Candidates of perfect score of prompts without images."""
    size: int = 0
    """Usable candidates of the prompts that are asked about."""


@dataclass
class Rows:
    """How often each candidate stands in each kind of rows."""

    asked: Counter[Place] = field(default_factory=Counter)
    unasked: Counter[Place] = field(default_factory=Counter)
    replay: Counter[Place] = field(default_factory=Counter)
    replayed_examples: int = 0
    """Rows drawn of the files of `BuildSettings.replay`."""

    def counts(self) -> dict[str, int]:
        """Rows of each kind."""
        replay = self.replay.total() + self.replayed_examples
        return {"asked": self.asked.total(), "unasked": self.unasked.total(), "replay": replay}


def collect(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema, summary: BuildSummary
) -> Pools:
    """Sort the candidates of all annotations; raise `UserError` where there is none to ask about."""
    pools, least = Pools(), settings.least(schema)
    for annotation in annotations:
        usable = usable_candidates(annotation, settings, schema, summary)
        places = {item.index: (annotation.prompt.id, item.index) for item in usable}
        if settings.replay_annotated and not annotation.prompt.images:
            pools.right += [places[item.index] for item in usable if item.score >= schema.perfect_total - TOLERANCE]
            continue
        pools.size += len(usable)
        for item in usable:
            pool = pools.good if item.score >= least - TOLERANCE else pools.other
            pool[cell_of(item.ratings, schema)].append(places[item.index])
        best = max(usable, key=lambda item: item.score, default=None)
        if best is not None and best.score >= least - TOLERANCE:
            pools.best.append(places[best.index])
    if not pools.size:
        raise UserError(
            "no usable candidate of a prompt with an image: prompts without one are replayed. "
            "Set method.replay_annotated=false to ask about these as well."
        )
    return pools


def cell_of(ratings: Mapping[str, float], schema: AttributeSchema) -> Cell:
    """Return the combination of asked values that an answer belongs to."""
    return tuple(_step_of(ratings[attribute.name], attribute) for attribute in schema.asked)


def _step_of(value: float, attribute: Attribute) -> float:
    return value if attribute.integer else min(attribute.steps(), key=lambda step: abs(step - value))


def plan_rows(pools: Pools, files: int, settings: BuildSettings, summary: BuildSummary) -> Rows:
    """Draw the rows of a mixture.

    Args:
        files: examples in the files of `BuildSettings.replay`.
        summary: gets a warning where less can be drawn than is asked for.
    """
    total, most = settings.size or pools.size, settings.most_repeats
    texts = len(pools.right) + files
    if settings.replay_share and not texts:
        summary.warnings.append(
            "there is no text to replay (prompts without images and a perfect answer, or method.replay=[file]): "
            "tuning on images alone may cost language ability. method.replay_share=0 says that none is wanted."
        )
    replay = _at_most(round(total * settings.replay_share), texts, most)
    unasked = _at_most(round((total - replay) * settings.unasked_share), len(pools.best), most)
    asked = total - replay - unasked
    low = _at_most(round(asked * (1 - settings.good_share)), _count(pools.other), most)
    high = _at_most(asked - low, _count(pools.good), most)
    rows = Rows()
    for name, pool, count in (("good", pools.good, high), ("other", pools.other, low)):
        rows.asked.update(_draw_cells(pool, count, settings, name))
    rows.unasked.update(draw_evenly(source_of(settings, "unasked"), sorted(pools.best), unasked))
    rows.replayed_examples = round(replay * files / texts) if texts else 0
    rows.replay.update(draw_evenly(source_of(settings, "replay"), sorted(pools.right), replay - rows.replayed_examples))
    if (drawn := replay + unasked + low + high) < total:
        summary.warnings.append(
            f"{drawn:,} rows instead of {total:,}: an answer stands in at most {most} (method.most_repeats). "
            "Sample more candidates, or lower method.good_share or method.least_score."
        )
    return rows


def _at_most(wanted: int, things: int, repeats: int) -> int:
    return min(wanted, things * repeats)


def _count(pool: Mapping[Cell, Sequence[Place]]) -> int:
    return sum(map(len, pool.values()))


_WEIGHTS = {"counts": 1.0, "root": 0.5, "even": 0.0}
"""Power of a cell's count by which it is drawn."""


def _draw_cells(
    pool: Mapping[Cell, Sequence[Place]], count: int, settings: BuildSettings, name: str
) -> Iterator[Place]:
    cells = sorted(pool)
    weights = [len(pool[cell]) ** _WEIGHTS[settings.balance] for cell in cells]
    caps = [len(pool[cell]) * settings.most_repeats for cell in cells]
    for cell, quota in zip(cells, apportion(count, weights, caps), strict=True):
        yield from draw_evenly(source_of(settings, f"{name}:{cell}"), sorted(pool[cell]), quota)


def source_of(settings: BuildSettings, name: str) -> random.Random:
    """Return the choices of one name, which no other choices disturb."""
    return random.Random(f"{settings.seed}:{name}")
