"""Sets for ablations: a share of the examples, pairs with wrong labels, prompts with wrong ratings, in exact numbers by seed.

Every example has a place in an order that the seed and its id alone decide. A share takes the first ones, so that the
examples of 25 % are among those of 50 %, and the pairs swapped at 25 % among those swapped at 50 %.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import PreferenceExample
from nemo_mm_align.schema.records import Annotation


@dataclass(frozen=True)
class Ablation:
    """Which examples are kept (None: all) and which pairs are swapped, by id."""

    kept: frozenset[str] | None = None
    flipped: frozenset[str] = frozenset()


def plan_ablation(settings: BuildSettings, ids: Iterable[str]) -> Ablation:
    """Choose among the ids of a whole set; swapped pairs are a share of the kept ones."""
    names = list(ids)
    if settings.fraction < 1:
        names = first_share(names, settings.fraction, f"{settings.seed}:fraction")
    kept = frozenset(names) if settings.fraction < 1 else None
    return Ablation(kept, frozenset(first_share(names, settings.label_noise, f"{settings.seed}:noise")))


def first_share(ids: list[str], share: float, seed: str) -> list[str]:
    """Return that share of the ids which stands first in the order that the seed gives them."""
    return in_order(ids, seed)[: math.floor(share * len(ids) + 0.5)]


def in_order(ids: list[str], seed: str) -> list[str]:
    """Return the ids in the order that the seed gives them, each its place by itself and the seed alone."""
    return sorted(ids, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def flip(pair: PreferenceExample) -> PreferenceExample:
    """Return a pair with chosen and rejected swapped, their scores, ratings and reference log-probs with them."""
    metadata = pair.metadata | {"flipped": True}
    if "chosen" in metadata and "rejected" in metadata:
        metadata |= {"chosen": pair.metadata["rejected"], "rejected": pair.metadata["chosen"]}
    swapped = {
        "chosen": pair.rejected,
        "rejected": pair.chosen,
        "chosen_score": pair.rejected_score,
        "rejected_score": pair.chosen_score,
        "chosen_ratings": pair.rejected_ratings,
        "rejected_ratings": pair.chosen_ratings,
        "reference_chosen_log_prob": pair.reference_rejected_log_prob,
        "reference_rejected_log_prob": pair.reference_chosen_log_prob,
    }
    return pair.model_copy(update=swapped | {"metadata": metadata})


@dataclass(frozen=True)
class NoisyRatings:
    """Annotations of which an exact share is wrong: there the best candidate has the worst one's ratings, and so on.

    Args:
        annotations: can be gone through more than once.
        share: of the prompts.
        seed: of the draw.
        schema: whose score orders candidates.
    """

    annotations: Iterable[Annotation]
    share: float
    seed: int
    schema: AttributeSchema

    @cached_property
    def wrong(self) -> frozenset[str]:
        """Ids of the prompts whose ratings are wrong."""
        ids = list(dict.fromkeys(annotation.prompt.id for annotation in self.annotations))
        return frozenset(first_share(ids, self.share, f"{self.seed}:ratings"))

    def __iter__(self) -> Iterator[Annotation]:
        for annotation in self.annotations:
            yield self._reversed(annotation) if annotation.prompt.id in self.wrong else annotation

    def _reversed(self, annotation: Annotation) -> Annotation:
        try:
            return reverse_ratings(annotation, self.schema)
        except (UserError, KeyError):  # of another schema, or out of range: the builder says so
            return annotation


def reverse_ratings(annotation: Annotation, schema: AttributeSchema) -> Annotation:
    """Return an annotation whose candidates have each other's ratings: in order of score, the first the last one's."""
    candidates = list(annotation.candidates)
    scores = [schema.total(candidate.ratings) for candidate in candidates]
    order = sorted(range(len(candidates)), key=scores.__getitem__)
    for place, source in zip(order, reversed(order), strict=True):
        rated = annotation.candidates[source]
        taken = {"ratings": rated.ratings, "reasoning": rated.reasoning, "predicted": rated.predicted}
        candidates[place] = annotation.candidates[place].model_copy(update=taken)
    return annotation.model_copy(update={"candidates": tuple(candidates)})
