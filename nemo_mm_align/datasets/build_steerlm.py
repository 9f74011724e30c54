"""Sets for attribute-conditioned training: every candidate under its own ratings, or a mixture that steers and keeps quality.

A mixture's rows:

    asked     an answer under the line that asks for its own ratings; most of them good ones, combinations of ratings balanced
    unasked   a prompt's best answer, without a line: what the model says when nothing is asked
    replay    right answers to prompts without images, some of them under a line of random values, which they must not heed

What is drawn depends on the seed and on the ids and ratings of all annotations, not on their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nemo_mm_align.datasets.ablations import first_share
from nemo_mm_align.datasets.build_answers import answer_example
from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.datasets.build_summary import BuildSummary
from nemo_mm_align.datasets.candidates import Scored, check_scored, checked, usable_candidates
from nemo_mm_align.datasets.quotas import draw_evenly
from nemo_mm_align.datasets.replay import replay_examples
from nemo_mm_align.datasets.steerlm_plan import Place, Pools, Rows, collect, plan_rows, source_of
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import TrainingExample
from nemo_mm_align.schema.records import Annotation


def build_steerlm_paper(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema, summary: BuildSummary
) -> Iterator[TrainingExample]:
    """Pair each prompt with each of its candidates, the candidate's ratings as the example's attributes."""
    for annotation in checked(annotations, schema, summary):
        usable = usable_candidates(annotation, settings, schema, summary)
        if not usable:
            summary.drop("prompt", "no usable candidate")
        for item in usable:
            yield _asked(annotation, item, schema, 0)


def build_steerlm(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema, summary: BuildSummary
) -> Iterator[TrainingExample]:
    """Mix rows as the module's docstring says; the annotations are read twice."""
    check_scored(schema)
    files = list(replay_examples(settings.replay, schema))
    quiet = BuildSummary(settings.name, schema)
    pools = collect(checked(annotations, schema, quiet), settings, schema, quiet)
    rows = plan_rows(pools, len(files), settings, summary)
    _report(pools, rows, schema, summary)
    replay = _Replay(rows, files, settings, schema)
    for annotation in checked(annotations, schema, summary):
        usable = {item.index: item for item in usable_candidates(annotation, settings, schema, summary)}
        found = list(_rows_of(annotation, usable, rows, replay, schema))
        if not found:
            summary.drop("prompt", "none of its candidates was drawn" if usable else "no usable candidate")
        yield from found
    for row, example in replay.examples:
        yield replay.row(example, row)


class _Replay:
    """The replayed rows, of annotations and of files: which of them stand under a line, and under which."""

    def __init__(
        self, rows: Rows, files: list[TrainingExample], settings: BuildSettings, schema: AttributeSchema
    ) -> None:
        drawn = draw_evenly(source_of(settings, "files"), files, rows.replayed_examples)
        self.examples = [(f"{example.id}-replay{number}", example) for number, example in enumerate(drawn)]
        self.settings, self.schema = settings, schema
        ids = [name for place, count in rows.replay.items() for name in replay_ids(place, count)]
        ids += [name for name, _ in self.examples]
        self._lined = frozenset(first_share(ids, settings.replay_random_share, f"{settings.seed}:lines"))

    def row(self, example: TrainingExample, name: str) -> TrainingExample:
        """The example under a line of random values, or without one."""
        line = None
        if name in self._lined:
            source = source_of(self.settings, name)
            line = {item.name: item.check(source.choice(item.steps())) for item in self.schema.asked}
        return example.model_copy(update={"id": name, "attributes": line})


def replay_ids(place: Place, count: int) -> list[str]:
    """Return the ids of the rows in which an annotated answer is replayed."""
    prompt, index = place
    return [f"{prompt}#{index}-replay{number or ''}" for number in range(count)]


def _rows_of(
    annotation: Annotation, usable: Mapping[int, Scored], rows: Rows, replay: _Replay, schema: AttributeSchema
) -> Iterator[TrainingExample]:
    for index, item in usable.items():
        place = (annotation.prompt.id, index)
        for number in range(rows.asked[place]):
            yield _asked(annotation, item, schema, number)
        plain = _example(annotation, f"{place[0]}#{index}", item)
        for number in range(rows.unasked[place]):
            yield plain.model_copy(update={"id": f"{plain.id}-unasked{number or ''}"})
        for name in replay_ids(place, rows.replay[place]):
            yield replay.row(plain, name)


def _asked(annotation: Annotation, item: Scored, schema: AttributeSchema, number: int) -> TrainingExample:
    row = f"{annotation.prompt.id}#{item.index}{f'.{number}' if number else ''}"
    return _example(annotation, row, item, schema.check_asked(item.ratings))


def _example(
    annotation: Annotation, row: str, item: Scored, attributes: dict[str, float] | None = None
) -> TrainingExample:
    return answer_example(annotation, row, item.text, {"candidate": item.index, "score": item.score}, attributes)


def _report(pools: Pools, rows: Rows, schema: AttributeSchema, summary: BuildSummary) -> None:
    """Tell the summary how many rows of each kind there are, and of each combination of values."""
    cells = list(_cells(pools, rows, schema))
    summary.mixture = {"rows": rows.counts(), "cells": cells}
    summary.lines.append("rows " + ", ".join(f"{name} {count:,}" for name, count in rows.counts().items()))
    for attribute in schema.asked:
        levels: Counter[float] = Counter()
        for cell in cells:
            levels[cell["values"][attribute.name]] += cell["rows"]
        shown = ", ".join(f"{level:g}: {levels[level]:,}" for level in attribute.steps())
        summary.lines.append(f"asked rows by {attribute.name} {shown}")
        missing = [f"{level:g}" for level in attribute.steps() if not levels[level]]
        if missing:
            summary.warnings.append(
                f"no row asks for {attribute.name} {', '.join(missing)}: what was never shown is not learned. Sample more "
                "candidates, or at a higher temperature."
            )


def _cells(pools: Pools, rows: Rows, schema: AttributeSchema) -> Iterator[dict[str, Any]]:
    """Each combination of values with its usable answers, how many of them are good, and the rows that ask for it."""
    names = [attribute.name for attribute in schema.asked]
    for cell in sorted({*pools.good, *pools.other}):
        good, other = pools.good.get(cell, []), pools.other.get(cell, [])
        yield {
            "values": dict(zip(names, cell, strict=True)),
            "answers": len(good) + len(other),
            "good": len(good),
            "rows": sum(rows.asked[place] for place in [*good, *other]),
        }
