"""Sets of pairs under asked attributes: which of two answers is the better one depends on what was asked for.

An answer's utility under a line is its score less `deviation_weight` times the sum of |judged - asked| over the attributes that
are asked for. A line is the one that the candidates were sampled under, or else one that fits a good candidate (hindsight). The
flip line of a pair fits its rejected answer, where that one is the better of the two under it and nearly as good by score.

Of prompts without images the score alone decides (`replay_annotated`), under the line they were sampled under or a random one:
their answers are not to heed it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.datasets.build_summary import BuildSummary
from nemo_mm_align.datasets.candidates import (
    TOLERANCE,
    Scored,
    check_scored,
    checked,
    metadata_of,
    random_of,
    usable_candidates,
)
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import PreferenceExample
from nemo_mm_align.schema.records import Annotation

Line = dict[str, float]
"""Values of the attributes that are asked for."""


def build_attribute_preference(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema, summary: BuildSummary
) -> Iterator[PreferenceExample]:
    """Make `lines` pairs of each prompt, as the module's docstring says; a share of them asks for nothing."""
    check_scored(schema)
    for annotation in checked(annotations, schema, summary):
        distinct = list({item.text: item for item in usable_candidates(annotation, settings, schema, summary)}.values())
        if len(distinct) < 2:
            summary.drop("prompt", "too few candidates")
            continue
        source = random_of(settings, annotation)
        found: list[PreferenceExample] = []
        steered = bool(annotation.prompt.images) or not settings.replay_annotated
        lines = _lines if steered else _random_lines
        for number, line in enumerate(lines(annotation, distinct, source, settings, schema)):
            pair = _pair(annotation, number, line, distinct, source, settings, schema, steered)
            if pair is None:
                summary.drop("pair", f"no candidate {settings.margin:g} below the best under its line")
                continue
            if any(_same(pair, other) for other in found):
                summary.drop("pair", "the same pair of the prompt again")
                continue
            found.append(pair)
            yield pair
        if not found:
            summary.drop("prompt", "no pair")


def utility(item: Scored, line: Mapping[str, float] | None, weight: float) -> float:
    """Return the score of an answer, less `weight` times the sum of |judged - asked| under a line."""
    deviation = sum(abs(item.ratings[name] - value) for name, value in (line or {}).items())
    return item.score - weight * deviation


def _lines(
    annotation: Annotation,
    usable: Sequence[Scored],
    source: random.Random,
    settings: BuildSettings,
    schema: AttributeSchema,
) -> Iterator[Line | None]:
    """What is asked for in each pair of a prompt; None for nothing."""
    least = settings.least(schema)
    best = max(item.score for item in usable)
    fitting = [schema.check_asked(item.ratings) for item in usable if item.score >= min(least, best) - TOLERANCE]
    source.shuffle(fitting)
    lines = [line for place, line in enumerate(fitting) if line not in fitting[:place]]
    if annotation.asked is not None:
        lines = [schema.check_asked(annotation.asked)]
    for number in range(settings.lines):
        yield None if source.random() < settings.unasked_share else lines[number % len(lines)]


def _random_lines(
    annotation: Annotation,
    usable: Sequence[Scored],
    source: random.Random,
    settings: BuildSettings,
    schema: AttributeSchema,
) -> Iterator[Line | None]:
    """What is asked for where it is not to be heeded."""
    for _ in range(settings.lines):
        if source.random() < settings.unasked_share:
            yield None
        elif annotation.asked is not None:
            yield schema.check_asked(annotation.asked)
        else:
            yield {item.name: item.check(source.choice(item.steps())) for item in schema.asked}


def _pair(
    annotation: Annotation,
    number: int,
    line: Line | None,
    usable: Sequence[Scored],
    source: random.Random,
    settings: BuildSettings,
    schema: AttributeSchema,
    steered: bool,
) -> PreferenceExample | None:
    weight = settings.deviation_weight if steered else 0.0
    worth = {item.index: utility(item, line, weight) for item in usable}
    chosen = max(usable, key=lambda item: worth[item.index])
    worse = [item for item in usable if worth[item.index] <= worth[chosen.index] - settings.margin + TOLERANCE]
    if not worse:
        return None
    rejected = source.choice(worse)
    return PreferenceExample(
        id=f"{annotation.prompt.id}#{number}",
        images=annotation.prompt.images,
        turns=annotation.prompt.turns,
        chosen=chosen.text,
        rejected=rejected.text,
        attributes=line,
        flip_attributes=_flip_line(chosen, rejected, settings, schema) if steered and line is not None else None,
        chosen_score=worth[chosen.index],
        rejected_score=worth[rejected.index],
        metadata=metadata_of(annotation, {"chosen": chosen.index, "rejected": rejected.index}),
    )


def _flip_line(chosen: Scored, rejected: Scored, settings: BuildSettings, schema: AttributeSchema) -> Line | None:
    line = schema.check_asked(rejected.ratings)
    gain = utility(rejected, line, settings.deviation_weight) - utility(chosen, line, settings.deviation_weight)
    near = rejected.score >= chosen.score - settings.flip_score_gap - TOLERANCE
    return line if settings.flips and near and gain >= settings.margin - TOLERANCE else None


def _same(pair: PreferenceExample, other: PreferenceExample) -> bool:
    return (pair.attributes, pair.chosen, pair.rejected) == (other.attributes, other.chosen, other.rejected)
