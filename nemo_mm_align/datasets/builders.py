"""The training sets that annotations give; `build_settings` says what each method makes.

A candidate's score is the schema's (helpfulness + correctness + coherence). Random choices depend on the seed and the
prompt's id alone, so that a set does not change with the order or number of the other prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.ablations import Ablation, NoisyRatings, flip, plan_ablation
from nemo_mm_align.datasets.build_answers import build_rejection, build_sft
from nemo_mm_align.datasets.build_attribute_pairs import build_attribute_preference
from nemo_mm_align.datasets.build_labelled import build_labelled
from nemo_mm_align.datasets.build_pairs import build_all_pairs, build_best_worst, build_preference
from nemo_mm_align.datasets.build_rated import build_rated
from nemo_mm_align.datasets.build_settings import (
    ALL_PAIRS,
    ATTRIBUTE_MODEL,
    ATTRIBUTE_PREFERENCE,
    BEST_WORST,
    LABELLED,
    PAIR_METHODS,
    PREFERENCE,
    REJECTION,
    SFT,
    STEERLM,
    STEERLM2,
    STEERLM_PAPER,
    BuildSettings,
)
from nemo_mm_align.datasets.build_steered import build_steered
from nemo_mm_align.datasets.build_steerlm import build_steerlm, build_steerlm_paper
from nemo_mm_align.datasets.build_summary import BuildSummary
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import Example, PreferenceExample
from nemo_mm_align.schema.records import Annotation

Builder = Callable[[Iterable[Annotation], BuildSettings, AttributeSchema, BuildSummary], Iterator[Example]]

BUILDERS: dict[str, Builder] = {
    SFT: build_sft,
    REJECTION: build_rejection,
    STEERLM: build_steerlm,
    STEERLM_PAPER: build_steerlm_paper,
    PREFERENCE: build_preference,
    BEST_WORST: build_best_worst,
    ALL_PAIRS: build_all_pairs,
    ATTRIBUTE_PREFERENCE: build_attribute_preference,
    ATTRIBUTE_MODEL: build_rated,
    LABELLED: build_labelled,
    STEERLM2: build_steered,
}


def build(
    settings: BuildSettings, annotations: Iterable[Annotation], schema: AttributeSchema
) -> tuple[list[Example], BuildSummary]:
    """Build the set of ``settings.name``; raise `UserError` where no example is left."""
    summary = BuildSummary(settings.name, schema)
    return list(stream(settings, annotations, schema, summary)), summary


def stream(
    settings: BuildSettings,
    annotations: Iterable[Annotation],
    schema: AttributeSchema,
    summary: BuildSummary,
    unfit: Callable[[Example], str | None] = lambda example: None,
) -> Iterator[Example]:
    """Yield the examples one by one and count them in `summary`, which is complete when the last one has been taken.

    Args:
        settings: method and thresholds.
        annotations: read once; again where the number of prompts, examples or candidates is needed first (wrong ratings, a
            share of the set, label noise, a mixture).
        schema: that the annotations were made with.
        summary: empty.
        unfit: says why an example cannot be written in the wanted format; None where it can.

    Raises:
        UserError: annotations of another schema, a prompt annotated twice, or no example left.
    """

    if settings.rating_noise > 0:
        annotations = NoisyRatings(annotations, settings.rating_noise, settings.seed, schema)

    def fitting(counts: BuildSummary) -> Iterator[Example]:
        for example in BUILDERS[settings.name](annotations, settings, schema, counts):
            if reason := unfit(example):
                counts.drop("example", reason)
            else:
                yield example

    ablation = Ablation()
    if settings.fraction < 1 or settings.label_noise > 0:
        first_pass = fitting(BuildSummary(settings.name, schema))
        ablation = plan_ablation(settings, (example.id for example in first_pass))
    for example in fitting(summary):
        if ablation.kept is not None and example.id not in ablation.kept:
            summary.drop("example", f"outside fraction={settings.fraction:g}")
            continue
        if example.id in ablation.flipped and isinstance(example, PreferenceExample):
            example = flip(example)
        summary.keep(example)
        yield example
    if not summary.kept:
        raise UserError(f"no example is left for method={settings.name}:\n{summary.table()}{_scores(settings, schema)}")
    if hint := summary.label_hint():
        summary.warnings.append(hint)
    if warning := summary.lengths.warning(settings.length_bias):
        summary.warnings.append(warning)


def _scores(settings: BuildSettings, schema: AttributeSchema) -> str:
    if settings.name not in (*PAIR_METHODS, REJECTION, LABELLED):
        return ""
    key = "margin" if settings.name in PAIR_METHODS else "threshold"
    ends = f"{schema.worst_total:g} to {schema.perfect_total:g}"
    return f"\nScores of schema {schema.name!r} go from {ends}; a lower method.{key} keeps more."
