"""Sets of rated answers: all candidates of a prompt with the mean of what was said of them, some prompts held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.datasets.build_summary import BuildSummary
from nemo_mm_align.datasets.candidates import Scored, checked, metadata_of, usable_candidates
from nemo_mm_align.datasets.rated import rated_answers
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import Example, RatedAnswers
from nemo_mm_align.schema.records import Annotation, read_records

Ratings = dict[str, float]


def build_rated(
    annotations: Iterable[Annotation], settings: BuildSettings, schema: AttributeSchema, summary: BuildSummary
) -> Iterator[RatedAnswers]:
    """Take every prompt with its candidates, each value the mean over the annotations and their repetitions.

    Raises:
        UserError: a repetition of other prompts, other candidates or another schema; or what `checked` refuses.
    """
    repeats = [_Repeats(path, settings, schema) for path in settings.repeats]
    for annotation in checked(annotations, schema, summary):
        judgements = [again for file in repeats if (again := file.take(annotation)) is not None]
        if not annotation.prompt.images and not _drawn(annotation.prompt.id, "text", settings.text_share, settings):
            summary.drop("prompt", "without images, not of the share to keep (method.text_share)")
            continue
        usable = usable_candidates(annotation, settings, schema, summary)
        if not usable:
            summary.drop("prompt", "no usable candidate")
            continue
        merged = _merged(usable, judgements, summary)
        places = {item.text: item.index for item in reversed(usable)}  # of equal texts the first
        extra = {"candidates": [places[text] for text in merged], "judgements": 1 + len(judgements)}
        yield RatedAnswers(
            id=annotation.prompt.id,
            images=annotation.prompt.images,
            turns=annotation.prompt.turns,
            answers=rated_answers(list(merged), list(merged.values())),
            metadata=metadata_of(annotation, extra),
        )
    for file in repeats:
        file.check_all_taken()


class _Repeats:
    """A file of further annotations of the same prompts and candidates."""

    def __init__(self, path: Path, settings: BuildSettings, schema: AttributeSchema) -> None:
        self.path = path
        counts = BuildSummary(settings.name, schema)
        try:
            found = checked(read_records(path, Annotation), schema, counts)
            self._waiting = {annotation.prompt.id: annotation for annotation in found}
        except UserError as error:
            raise UserError(f"method.repeats: {path}: {error}") from None

    def take(self, first: Annotation) -> list[Ratings] | None:
        """Return what this file says of an annotation's candidates; None where it says nothing of the prompt."""
        again = self._waiting.pop(first.prompt.id, None)
        if again is None:
            return None
        if [item.text for item in first.candidates] != [item.text for item in again.candidates]:
            raise UserError(
                f"method.repeats: {self.path}: prompt {first.prompt.id} has other candidates there than in the "
                "annotations; a repetition rates the same ones, in their order."
            )
        return [candidate.ratings for candidate in again.candidates]

    def check_all_taken(self) -> None:
        """Raise `UserError` where a prompt stands in this file alone."""
        if self._waiting:
            raise UserError(
                f"method.repeats: {self.path}: {len(self._waiting)} of its prompts are not in the annotations, for example "
                f"{next(iter(self._waiting))}; a repetition rates the same ones."
            )


def _merged(usable: Sequence[Scored], again: Sequence[Sequence[Ratings]], summary: BuildSummary) -> dict[str, Ratings]:
    """Return mean values by text: what is the same text for a model has one value, however often it was rated."""
    by_text: dict[str, list[Ratings]] = {}
    for item in usable:
        if item.text in by_text:
            summary.drop("candidate", "same text as another, counted in its mean")
        by_text.setdefault(item.text, []).extend([item.ratings, *(ratings[item.index] for ratings in again)])
    return {
        text: {name: sum(values[name] for values in rated) / len(rated) for name in rated[0]}
        for text, rated in by_text.items()
    }


def heldout_path(out: Path) -> Path:
    """Return where the prompts are written that were held out of `out`."""
    return out.with_name(f"{out.stem}.heldout.jsonl")


def is_held_out(prompt_id: str, settings: BuildSettings) -> bool:
    """Whether a prompt is held out, which its id and the seed alone decide: it stays out when others are added."""
    return _drawn(prompt_id, "holdout", settings.holdout, settings)


def _drawn(prompt_id: str, purpose: str, share: float, settings: BuildSettings) -> bool:
    """Whether a prompt is of a share; that of another purpose is drawn apart."""
    digest = hashlib.sha256(f"{settings.seed}:{purpose}:{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def keep_training(
    examples: Iterable[Example], settings: BuildSettings, summary: BuildSummary, held: list[Example]
) -> Iterator[Example]:
    """Yield the examples to train on; the others are put into `held`.

    Raises:
        UserError: a share is to be held out, but none is, or nothing is left to train on.
    """
    kept = 0
    for example in examples:
        if is_held_out(example.id, settings):
            held.append(example)
        else:
            kept += 1
            yield example
    summary.held_out = len(held)
    if settings.holdout and not (held and kept):
        word = "none was held out" if kept else "all were held out"
        raise UserError(
            f"method.holdout={settings.holdout:g}: of {kept + len(held)} prompts {word}. Give another share or seed, or more "
            "prompts."
        )
