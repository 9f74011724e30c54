"""How many answers of two files differ, which were made alike but in another layout or number format.

python -m nemo_mm_align.benchmarks.differing_answers one.jsonl other.jsonl

In float32 rounding chooses a token about never, in bf16 now and then; from there on the answers go their own ways.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.records import Candidate, CandidateSet, read_records


@dataclass(frozen=True)
class Differing:
    """Answers, those that differ, and the share of its words that a differing one has in common before that, on average."""

    answers: int
    differing: int
    common: float

    @property
    def share(self) -> float:
        """Of the answers, those that differ."""
        return self.differing / self.answers


def compare(one: Path, other: Path) -> Differing:
    """Compare the answers of two files, line by line.

    Raises:
        UserError: they do not answer the same prompts in the same order.
    """
    pairs: list[tuple[str, str]] = []
    sets = list(read_records(one, CandidateSet)), list(read_records(other, CandidateSet))
    if [item.prompt_id for item in sets[0]] != [item.prompt_id for item in sets[1]]:
        raise UserError(f"{other}: answers other prompts than {one}, or in another order. Generate both from one file.")
    for first, second in zip(*sets, strict=True):
        for mine, theirs in zip(first.candidates, second.candidates, strict=True):
            pairs += zip(_texts(mine), _texts(theirs), strict=False)
    common = [_common(mine, theirs) for mine, theirs in pairs if mine != theirs]
    return Differing(len(pairs), len(common), sum(common) / len(common) if common else 1.0)


def _texts(candidate: Candidate) -> tuple[str, ...]:
    return candidate.text, *candidate.follow_up_answers


def _common(one: str, other: str) -> float:
    words = one.split(), other.split()
    same = next(
        (place for place, pair in enumerate(zip(*words, strict=False)) if pair[0] != pair[1]), min(map(len, words))
    )
    return same / max(1, *map(len, words))


def main(words: Sequence[str]) -> int:
    """Print the comparison of the two files that are named."""
    if len(words) != 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    found = compare(*map(Path, words))
    sys.stdout.write(
        f"{found.differing} of {found.answers} answers differ ({100 * found.share:.1f} %); a differing one begins with "
        f"{100 * found.common:.0f} % in common\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
