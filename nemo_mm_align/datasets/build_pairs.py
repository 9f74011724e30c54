"""Sets of pairs: a better and a worse answer to the same prompt, their scores at least a margin apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from nemo_mm_align.core.errors import UserError
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

Pair = tuple[Scored, Scored]


def build_preference(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema, summary: BuildSummary
) -> Iterator[PreferenceExample]:
    """Pair the best candidate (the first of equals) with a random one whose score is at least `margin` lower."""

    def choose(usable: list[Scored], annotation: Annotation) -> list[Pair]:
        chosen, worse = _best_and_worse(usable, settings)
        return [(chosen, random_of(settings, annotation).choice(worse))] if worse else []

    return _pairs(annotations, settings, schema, summary, choose)


def build_best_worst(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema, summary: BuildSummary
) -> Iterator[PreferenceExample]:
    """Pair the best candidate with the worst one (of equals the first), where they are at least `margin` apart."""

    def choose(usable: list[Scored], annotation: Annotation) -> list[Pair]:
        chosen, worse = _best_and_worse(usable, settings)
        return [(chosen, min(worse, key=lambda item: item.score))] if worse else []

    return _pairs(annotations, settings, schema, summary, choose)


def build_all_pairs(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema, summary: BuildSummary
) -> Iterator[PreferenceExample]:
    """Pair each two candidates of distinct texts whose scores are at least `margin` apart; at most `max_pairs`."""

    def choose(usable: list[Scored], annotation: Annotation) -> list[Pair]:
        # A text that was scored twice counts once: else it could be better and worse than the same other text.
        distinct = [item for place, item in enumerate(usable) if item.text not in {one.text for one in usable[:place]}]
        pairs = [(better, worse) for better in distinct for worse in distinct if _apart(better, worse, settings)]
        if settings.max_pairs is None or len(pairs) <= settings.max_pairs:
            return pairs
        summary.drop("pair", f"more than {settings.max_pairs} of a prompt", len(pairs) - settings.max_pairs)
        picks = random_of(settings, annotation).sample(range(len(pairs)), settings.max_pairs)
        return [pairs[pick] for pick in sorted(picks)]

    return _pairs(annotations, settings, schema, summary, choose)


def _best_and_worse(usable: list[Scored], settings: BuildSettings) -> tuple[Scored, list[Scored]]:
    chosen = max(usable, key=lambda item: item.score)
    return chosen, [item for item in usable if _apart(chosen, item, settings)]


def _apart(better: Scored, worse: Scored, settings: BuildSettings) -> bool:
    """Whether two candidates make a pair. A judge may score a text twice: it is never preferred to itself."""
    excess = better.score - worse.score - settings.margin
    return better.text != worse.text and (excess > TOLERANCE if settings.strict else excess >= -TOLERANCE)


def _pairs(
    annotations: Iterable[Annotation],
    settings: BuildSettings,
    schema: AttributeSchema,
    summary: BuildSummary,
    choose: Callable[[list[Scored], Annotation], list[Pair]],
) -> Iterator[PreferenceExample]:
    _check_margin(settings, schema)
    apart = f"{'more than ' if settings.strict else ''}{settings.margin:g} below the best"
    several = settings.name == "all_pairs"
    for annotation in checked(annotations, schema, summary):
        usable = usable_candidates(annotation, settings, schema, summary)
        pairs = choose(usable, annotation) if usable else []
        if not pairs:
            summary.drop("prompt", f"no candidate {apart}" if len(usable) > 1 else "too few candidates")
        for chosen, rejected in pairs:
            suffix = f"#{chosen.index}-{rejected.index}" if several else ""
            yield _preference(annotation, annotation.prompt.id + suffix, chosen, rejected)


def _check_margin(settings: BuildSettings, schema: AttributeSchema) -> None:
    check_scored(schema)
    width = schema.perfect_total - schema.worst_total
    if settings.margin > width or (settings.strict and settings.margin == width):
        raise UserError(
            f"method.margin={settings.margin:g} cannot be reached: scores of schema {schema.name!r} go from "
            f"{schema.worst_total:g} to {schema.perfect_total:g}. Give a smaller one; a sixth of the range, as in the "
            f"paper (2 of 12), is method.margin={width / 6:.3g}."
        )


def _preference(annotation: Annotation, pair_id: str, chosen: Scored, rejected: Scored) -> PreferenceExample:
    return PreferenceExample(
        id=pair_id,
        images=annotation.prompt.images,
        turns=annotation.prompt.turns,
        chosen=chosen.text,
        rejected=rejected.text,
        chosen_score=chosen.score,
        rejected_score=rejected.score,
        chosen_ratings=chosen.ratings,
        rejected_ratings=rejected.ratings,
        metadata=metadata_of(annotation, {"chosen": chosen.index, "rejected": rejected.index}),
    )
