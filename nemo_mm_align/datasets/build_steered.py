"""Sets of weighed answers under attributes: all candidates of a prompt, and how likely each has what is wanted of it.

Wanted is what the line asks for, and where it does not ask for quality, that all that makes the score is at its best. Of prompts
without images that alone is wanted (`replay_annotated`): their answers are not to heed a line.

What is asked for is what the candidates were sampled under. Of candidates that nothing was asked of it is what one of them has,
drawn by seed (hindsight): weights of target and policy are then both divided by another distribution than the one that was
sampled from, which moves no optimum, but weighs the answers' errors differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from nemo_mm_align.core.running_mean import Mean
from nemo_mm_align.datasets.attribute_likelihood import log_likelihood
from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.datasets.build_summary import BuildSummary
from nemo_mm_align.datasets.candidates import Scored, checked, metadata_of, random_of, usable_candidates
from nemo_mm_align.datasets.weights import effective_size
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import SteeredAnswer, SteeredAnswers
from nemo_mm_align.schema.records import Annotation

Ratings = Mapping[str, float]


def build_steered(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema, summary: BuildSummary
) -> Iterator[SteeredAnswers]:
    """Take every prompt with two or more distinct candidates, as the module's docstring says."""
    rounded, hindsight, sizes, counts = 0, 0, Mean(), Mean()
    for annotation in checked(annotations, schema, summary):
        usable = usable_candidates(annotation, settings, schema, summary)
        told = _told(annotation, usable, summary)
        if len(told) < 2:
            summary.drop("prompt", "fewer than two distinct candidates")
            continue
        example = _example(annotation, usable, told, settings, schema)
        rounded += any(annotation.candidates[item.index].predicted is None for item in usable)
        hindsight += annotation.asked is None
        sizes.add(effective_size([answer.log_likelihood for answer in example.answers]))
        counts.add(len(told))
        yield example
    _report(summary, rounded, hindsight, sizes, counts)


def _told(annotation: Annotation, usable: Sequence[Scored], summary: BuildSummary) -> dict[str, Ratings]:
    """Values by text, a model's own fractions where there are some; of candidates of one text their mean."""
    by_text: dict[str, list[Ratings]] = {}
    for item in usable:
        if item.text in by_text:
            summary.drop("candidate", "same text as another, counted in its mean")
        by_text.setdefault(item.text, []).append(item.ratings | (annotation.candidates[item.index].predicted or {}))
    return {
        text: {name: sum(values[name] for values in rated) / len(rated) for name in rated[0]}
        for text, rated in by_text.items()
    }


def _example(
    annotation: Annotation,
    usable: Sequence[Scored],
    told: Mapping[str, Ratings],
    settings: BuildSettings,
    schema: AttributeSchema,
) -> SteeredAnswers:
    drawn = random_of(settings, annotation).choice(usable).ratings
    line = schema.check_asked(drawn if annotation.asked is None else annotation.asked)
    places = {item.text: item.index for item in reversed(usable)}  # of equal texts the first
    wanted = _wanted(line, bool(annotation.prompt.images), settings, schema)
    return SteeredAnswers(
        id=annotation.prompt.id,
        images=annotation.prompt.images,
        turns=annotation.prompt.turns,
        attributes=line,
        answers=tuple(
            SteeredAnswer(text=text, log_likelihood=log_likelihood(schema, wanted, values, settings.concentration))
            for text, values in told.items()
        ),
        metadata=metadata_of(annotation, {"candidates": [places[text] for text in told]}),
    )


def _wanted(line: Ratings, has_image: bool, settings: BuildSettings, schema: AttributeSchema) -> dict[str, float]:
    heeded = has_image or not settings.replay_annotated
    best = {
        name: schema[name].maximum if schema[name].higher_is_better else schema[name].minimum for name in schema.score
    }
    return (best if settings.imply_quality or not heeded else {}) | (dict(line) if heeded else {})


def _report(summary: BuildSummary, rounded: int, hindsight: int, sizes: Mean, counts: Mean) -> None:
    """Tell the summary how many answers count, and what is not as the method wants it."""
    if not counts.count:
        return
    summary.mixture = {
        "answers_per_prompt": counts.mean,
        "effective_answers_per_prompt": sizes.mean,
        "asked_in_hindsight": hindsight,
        "rounded_ratings": rounded,
    }
    summary.lines.append(
        f"answers per prompt {counts.mean:.2f}, of them {sizes.mean:.2f} that count "
        "(effective sample size by P(wanted | answer) alone)"
    )
    if rounded:
        summary.warnings.append(
            f"{rounded} of {counts.count} prompts have ratings without what a model told before rounding: whole scores stand "
            "in its place, and answers that differ little weigh alike. scripts/annotate.py values=real keeps them."
        )
    if hindsight:
        summary.warnings.append(
            f"{hindsight} of {counts.count} prompts have candidates that nothing was asked of: each asks for what one of them "
            "has. Sample the model that training starts from with scripts/sample.py draw_from=..., as the method does."
        )
