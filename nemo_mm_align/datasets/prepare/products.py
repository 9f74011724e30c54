"""From what a record says to what is written: a prompt, a training record, or an answer of an annotation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nemo_mm_align.core.hashing import hash_json
from nemo_mm_align.datasets.draft import LONE_SURROGATE, Draft, check, finish, resolve_images
from nemo_mm_align.datasets.prepare.settings import PrepareSettings
from nemo_mm_align.datasets.prepare.source import ANNOTATIONS, PROMPTS, Item, Product, Source
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import (
    IMAGE_PLACEHOLDER,
    Annotation,
    Prompt,
    RatedCandidate,
    Record,
    Turn,
)

Resolve = Callable[[str], Path]


@dataclass(frozen=True)
class Made:
    """A record to be written.

    Args:
        record: complete.
        prompt_key: the same for all records about one question on the same images.
        key: the same for records that differ in their ids alone.
        answers: published ones: of a pair both.
    """

    record: Record
    id: str
    origin: str
    task: str
    images: tuple[str, ...]
    prompt_key: str
    key: str
    answers: tuple[str, ...] = ()
    ratings: dict[str, float] | None = None


def checked_draft(item: Item, source: Source, settings: PrepareSettings, product: Product) -> Draft:
    """Note all problems that are visible in an item's text, its attribute line read back into values."""
    draft, schema = item.draft, settings.attribute_schema
    if product == PROMPTS and not source.attributed:
        draft.attributes = None
    rated = source.attributed or draft.attributes is not None
    if product == ANNOTATIONS:  # all values that were judged, whatever a model is asked for
        schema = schema.model_copy(update={"steered": None})
    check(draft, schema if rated else None, settings.ignore_labels, settings.add_image_placeholders)
    draft.problems = [replace(found, remedy=found.remedy.replace("data.add_", "add_")) for found in draft.problems]
    if LONE_SURROGATE.search(item.origin + item.task):
        draft.fault("text", "its task or origin holds half of a character.", "write the record anew as UTF-8.")
    if rated and draft.attributes is None and product != PROMPTS and not draft.problems:
        problem = "no attribute line in the last user turn, and no ratings."
        draft.fault("no_attributes", problem, "add it; a file without such lines is source=llava.")
    return draft


def make(item: Item, settings: PrepareSettings, product: Product, resolve: Resolve) -> Made | None:
    """Return what is written of an item whose draft is checked; None where it has problems, which the draft holds then."""
    draft = item.draft
    if product in (PROMPTS, ANNOTATIONS):
        return _prompt(item, settings.question if product == PROMPTS else "last", resolve, rated=product == ANNOTATIONS)
    draft.extras["metadata"] = _metadata(item)
    example = finish(draft, resolve)
    if example is None:
        return None
    texts = [turn.content for turn in example.turns]
    answers = _answers(draft)
    asked = [draft.attributes, *(draft.answers or ())]
    return _made(example, item, example.images, texts if draft.answers else texts[:-1], answers, [texts, asked])


def _prompt(item: Item, question: str, resolve: Resolve, rated: bool) -> Made | None:
    draft, ratings = item.draft, item.draft.attributes
    images = resolve_images(draft, resolve)
    if draft.problems:
        return None
    places = [place for place, (role, _) in enumerate(draft.turns) if role == "user"]
    end = places[0 if question == "first" else -1] + 1
    turns = [Turn.model_validate({"role": role, "content": content}) for role, content in draft.turns[:end]]
    shown = tuple(images[: sum(turn.content.count(IMAGE_PLACEHOLDER) for turn in turns)])
    published = draft.turns[end][1] if end < len(draft.turns) else (draft.answers or ("",))[0]
    metadata = _metadata(item) | ({"answer": published} if published and not rated else {})
    prompt = Prompt(id=draft.id, images=shown, turns=tuple(turns), metadata=metadata)
    texts = [turn.content for turn in turns]
    answers = (published,) if published else ()
    made = _made(prompt, item, shown, texts, answers, [texts, [published, ratings] if rated else None])
    return replace(made, ratings=ratings) if rated else made


def _metadata(item: Item) -> dict[str, Any]:
    return {"origin": item.origin} | ({"task": item.task} if item.task else {})


def _answers(draft: Draft) -> tuple[str, ...]:
    return tuple(draft.answers) if draft.answers else (draft.turns[-1][1],)


def _made(
    record: Record, item: Item, images: tuple[str, ...], asked: list[str], answers: tuple[str, ...], content: Any
) -> Made:
    key = hash_json([images, content], 32)
    return Made(record, item.draft.id, item.origin, item.task, images, hash_json([images, asked], 32), key, answers)


@dataclass
class Grouped:
    """The rated answers to one prompt on their way to an annotation."""

    first: Made
    candidates: list[RatedCandidate] = field(default_factory=list)


class Groups:
    """Puts the answers to each prompt together, in the order in which the prompts come first.

    Args:
        schema: of the ratings.
        judge: who gave them.
    """

    def __init__(self, schema: AttributeSchema, judge: str) -> None:
        self.schema, self.judge, self._groups = schema, judge, dict[str, Grouped]()

    def add(self, made: Made) -> None:
        """Take an answer with its ratings."""
        group = self._groups.setdefault(made.prompt_key, Grouped(made))
        group.candidates.append(RatedCandidate(text=made.answers[0], ratings=made.ratings or {}))

    def annotations(self) -> Iterator[Made]:
        """Yield one annotation per prompt."""
        for group in self._groups.values():
            prompt = group.first.record
            assert isinstance(prompt, Prompt)
            record = Annotation(
                prompt=prompt,
                candidates=tuple(group.candidates),
                judge=self.judge,
                schema_name=self.schema.name,
                schema_fingerprint=self.schema.fingerprint,
            )
            yield replace(group.first, record=record)
