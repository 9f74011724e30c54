"""The four training sets that annotations give, by the rules of Li, Lin and Pei (arXiv 2402.10884).

    sft         the judge's reference answer
    rejection   a candidate with a perfect score, one per prompt
    steerlm     every candidate, its ratings as attributes
    preference  chosen: the best score; rejected: a random one at least a margin below

A candidate's score is the schema's (helpfulness + correctness + coherence). Random choices depend on the seed and the
prompt's id alone, so that a set does not change with the order or number of the other prompts.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.datasets.build_summary import BuildSummary
from nemo_mm_align.datasets.relocate import relocate_images
from nemo_mm_align.errors import UserError
from nemo_mm_align.records import (
    IMAGE_PLACEHOLDER,
    Annotation,
    PreferenceExample,
    TrainingExample,
    Turn,
    read_records,
    write_records,
)

logger = logging.getLogger(__name__)


class BuildSettings(BaseModel):
    """How a training set is built.

    Args:
        name: the method.
        threshold: rejection: least score of an answer to imitate; None for the schema's perfect score.
        margin: preference: least difference of the scores of chosen and rejected.
        drop_truncated: leave out candidates that were cut at the token limit: they would teach to stop anywhere.
        seed: of the random choices.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["sft", "rejection", "steerlm", "preference"]
    threshold: float | None = None
    margin: float = Field(default=2, gt=0)
    drop_truncated: bool = True
    seed: int = 1234


@dataclass(frozen=True)
class Scored:
    """A usable candidate: its place among the annotation's candidates, stripped text, ratings and score."""

    index: int
    text: str
    ratings: dict[str, float]
    score: float


def build_sft(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema
) -> tuple[list[TrainingExample], BuildSummary]:
    """Pair each prompt with the judge's reference answer; prompts without one are dropped."""
    summary = BuildSummary("sft")
    examples = []
    for annotation in _checked(annotations, schema, summary):
        answer = (annotation.reference_answer or "").strip()
        if not answer or IMAGE_PLACEHOLDER in answer:
            summary.drop("prompt", "no reference answer" if not answer else f"{IMAGE_PLACEHOLDER} in the answer")
            continue
        summary.keep()
        examples.append(_example(annotation, annotation.prompt.id, answer, {}))
    return examples, summary


def build_rejection(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema
) -> tuple[list[TrainingExample], BuildSummary]:
    """Pair each prompt with one of its candidates that reach the threshold, drawn among their distinct texts."""
    threshold = schema.perfect_total if settings.threshold is None else settings.threshold
    summary = BuildSummary("rejection")
    examples = []
    for annotation in _checked(annotations, schema, summary):
        usable = _usable(annotation, settings, schema, summary)
        good = list({item.text: item for item in usable if item.score >= threshold}.values())
        if not good:
            summary.drop("prompt", f"no candidate with a score of {threshold:g}" if usable else "no usable candidate")
            continue
        pick = _random(settings, annotation).choice(good)
        summary.keep()
        metadata = {"candidate": pick.index, "score": pick.score}
        examples.append(_example(annotation, annotation.prompt.id, pick.text, metadata))
    return examples, summary


def build_steerlm(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema
) -> tuple[list[TrainingExample], BuildSummary]:
    """Pair each prompt with each of its candidates, the candidate's ratings as the example's attributes."""
    summary = BuildSummary("steerlm")
    examples = []
    for annotation in _checked(annotations, schema, summary):
        usable = _usable(annotation, settings, schema, summary)
        if not usable:
            summary.drop("prompt", "no usable candidate")
        for item in usable:
            summary.keep()
            example_id = f"{annotation.prompt.id}#{item.index}"
            examples.append(_example(annotation, example_id, item.text, {"candidate": item.index}, item.ratings))
    return examples, summary


def build_preference(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema
) -> tuple[list[PreferenceExample], BuildSummary]:
    """Pair the best candidate (the first of equals) with a random one whose score is at least `margin` lower."""
    summary = BuildSummary("preference")
    examples = []
    for annotation in _checked(annotations, schema, summary):
        usable = _usable(annotation, settings, schema, summary)
        pair = _pair(usable, settings, _random(settings, annotation))
        if pair is None:
            reason = f"no candidate {settings.margin:g} below the best" if len(usable) > 1 else "too few candidates"
            summary.drop("prompt", reason)
            continue
        summary.keep()
        examples.append(_preference(annotation, *pair))
    return examples, summary


BUILDERS: dict[str, Callable[..., tuple[list[Any], BuildSummary]]] = {
    "sft": build_sft,
    "rejection": build_rejection,
    "steerlm": build_steerlm,
    "preference": build_preference,
}


def build_from_config(config: DictConfig) -> BuildSummary:
    """Read ``annotations``, build, write ``out`` and ``<out>.summary.json`` beside it; return the summary.

    Raises:
        UserError: annotations of another attribute schema, a prompt annotated twice, or nothing left to write.
    """
    schema = AttributeSchema.model_validate(OmegaConf.to_container(config.attribute_schema, resolve=True))
    settings = BuildSettings.model_validate(OmegaConf.to_container(config.method, resolve=True))
    source, out = Path(config.annotations), Path(config.out)
    if out.resolve() == source.resolve():
        raise UserError(f"out={out} is the annotations file itself; give another name.")
    examples, summary = build(settings, read_records(source, Annotation), schema)
    write_records(out, relocate_images(examples, source, out))
    summary.write(Path(f"{out}.summary.json"), settings.model_dump(exclude_unset=True), schema)
    logger.info("%s\nwrote %s", summary.table(), out)
    return summary


def build(
    settings: BuildSettings, annotations: Iterable[Annotation], schema: AttributeSchema
) -> tuple[list[Any], BuildSummary]:
    """Build the set of ``settings.name``; raise `UserError` where no example is left."""
    examples, summary = BUILDERS[settings.name](annotations, settings, schema)
    if not examples:
        raise UserError(f"no example is left for method={settings.name}:\n{summary.table()}")
    return examples, summary


def _checked(annotations: Iterable[Annotation], schema: AttributeSchema, summary: BuildSummary) -> Iterator[Annotation]:
    """Yield the annotations, each prompt once, all of this schema."""
    seen = set()
    for annotation in annotations:
        prompt_id = annotation.prompt.id
        if annotation.schema_fingerprint != schema.fingerprint:
            raise UserError(
                f"prompt {prompt_id} was annotated by schema {annotation.schema_name!r} "
                f"({annotation.schema_fingerprint}), not by {schema.name!r} ({schema.fingerprint}) as it is now; "
                "choose that schema with attribute_schema=..., or label again."
            )
        if prompt_id in seen:
            raise UserError(f"prompt {prompt_id} is annotated twice; keep one of its annotations.")
        seen.add(prompt_id)
        summary.see(annotation)
        yield annotation


def _usable(
    annotation: Annotation, settings: BuildSettings, schema: AttributeSchema, summary: BuildSummary
) -> list[Scored]:
    usable = []
    for index, candidate in enumerate(annotation.candidates):
        text = candidate.text.strip()
        if not text:
            summary.drop("candidate", "empty")
        elif settings.drop_truncated and candidate.finish_reason == "length":
            summary.drop("candidate", "cut at the token limit")
        elif IMAGE_PLACEHOLDER in text:
            summary.drop("candidate", f"{IMAGE_PLACEHOLDER} in the answer")
        else:
            ratings = _ratings(annotation, index, schema)
            usable.append(Scored(index, text, ratings, schema.total(ratings)))
    return usable


def _ratings(annotation: Annotation, index: int, schema: AttributeSchema) -> dict[str, float]:
    try:
        return schema.check(annotation.candidates[index].ratings)
    except UserError as error:
        raise UserError(f"prompt {annotation.prompt.id}, candidate {index}: {error} Label it again.") from None


def _random(settings: BuildSettings, annotation: Annotation) -> random.Random:
    return random.Random(f"{settings.seed}:{annotation.prompt.id}")


def _pair(usable: list[Scored], settings: BuildSettings, rng: random.Random) -> tuple[Scored, Scored] | None:
    if not usable:
        return None
    chosen = max(usable, key=lambda item: item.score)
    # A judge may score the same text differently; a text is never preferred to itself.
    worse = [item for item in usable if item.score <= chosen.score - settings.margin and item.text != chosen.text]
    return (chosen, rng.choice(worse)) if worse else None


def _metadata(annotation: Annotation, extra: dict[str, Any]) -> dict[str, Any]:
    return {"prompt_id": annotation.prompt.id, "judge": annotation.judge, **extra}


def _example(
    annotation: Annotation,
    example_id: str,
    answer: str,
    metadata: dict[str, Any],
    attributes: dict[str, float] | None = None,
) -> TrainingExample:
    return TrainingExample(
        id=example_id,
        images=annotation.prompt.images,
        turns=(*annotation.prompt.turns, Turn(role="assistant", content=answer)),
        attributes=attributes,
        metadata=_metadata(annotation, metadata),
    )


def _preference(annotation: Annotation, chosen: Scored, rejected: Scored) -> PreferenceExample:
    return PreferenceExample(
        id=annotation.prompt.id,
        images=annotation.prompt.images,
        turns=annotation.prompt.turns,
        chosen=chosen.text,
        rejected=rejected.text,
        chosen_score=chosen.score,
        rejected_score=rejected.score,
        metadata=_metadata(annotation, {"chosen": chosen.index, "rejected": rejected.index}),
    )
