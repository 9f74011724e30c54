"""Kinds of training samples: which examples one is made of, and which sequences, in which roles, it has.

A recipe names its kind; the length plan, the collation and the capacity counts work with any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.kinds.answers import Answers, AttributedAnswers
from nemo_mm_align.datasets.kinds.image_pairs import ImagePairs
from nemo_mm_align.datasets.kinds.kind import SampleKind
from nemo_mm_align.datasets.kinds.labelled import LabelledAnswers
from nemo_mm_align.datasets.kinds.pairs import AttributePairs, Pairs, ScoredPairs
from nemo_mm_align.datasets.kinds.rated import Candidates
from nemo_mm_align.datasets.kinds.steered import WeighedAnswers
from nemo_mm_align.schema.examples import Example, PreferenceExample

ANSWERS, ATTRIBUTED_ANSWERS, RATED_ANSWERS = Answers(), AttributedAnswers(), Candidates()
PAIRS, ATTRIBUTE_PAIRS, IMAGE_PAIRS, SCORED_PAIRS = Pairs(), AttributePairs(), ImagePairs(), ScoredPairs()
LABELLED_ANSWERS, WEIGHED_ANSWERS = LabelledAnswers(), WeighedAnswers()
OF_RECORDS = (ANSWERS, PAIRS, LABELLED_ANSWERS, RATED_ANSWERS, WEIGHED_ANSWERS)
"""For every record the first one here that takes it is what it is called by."""


def check_kind(kind: SampleKind, examples: Sequence[Example], path: str | Path, recipe: str, build_method: str) -> None:
    """Check that data are what a recipe trains on.

    Args:
        path: of the data, for messages.
        recipe: its name.
        build_method: that makes such data, for messages.

    Raises:
        UserError: records of another kind, or a set that lacks what the recipe needs.
    """
    for example in examples:
        if not isinstance(example, kind.example):
            found = next(other.title for other in OF_RECORDS if isinstance(example, other.example))
            wanted = f"{kind.title} (chosen and rejected)" if kind.example is PreferenceExample else kind.title
            raise UserError(
                f"{path}: holds {found}, but recipe={recipe} trains on {wanted}. Take a recipe on {found}, or build the set with "
                f"scripts/build.py method={build_method}."
            )
    refuse_lacking(kind.lacks(examples), path, recipe, build_method)


def refuse_lacking(lacking: str | None, path: str | Path, recipe: str, build_method: str) -> None:
    """Raise `UserError` where a set lacks something, in words."""
    if lacking is not None:
        remedy = f"Build the set with scripts/build.py method={build_method}."
        raise UserError(f"{path}: recipe={recipe} needs {lacking} {remedy}")
