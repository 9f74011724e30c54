"""What a builder kept and what it dropped, as a table and as a file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_mm_align.core.atomic import write_json
from nemo_mm_align.datasets.build_settings import ATTRIBUTE_PREFERENCE, PREFERENCE, REJECTION
from nemo_mm_align.datasets.build_statistics import LengthBias, RatingStatistics, SideStatistics, score_distribution
from nemo_mm_align.datasets.label_balance import weight_hint
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import Example, LabelledExample, PreferenceExample, RatedAnswers, SteeredAnswers
from nemo_mm_align.schema.records import Annotation

DESIRABLE, UNDESIRABLE = "desirable", "undesirable"
"""Sides of labelled answers."""

PAPER = {PREFERENCE: (5182, 6000), REJECTION: (5034, 6000)}
"""Prompts that gave an example, of those annotated: Li, Lin and Pei's published files (arXiv 2402.10884)."""


@dataclass
class BuildSummary:
    """Counts of one built training set.

    Attributes:
        prompts, candidates: read.
        kept: examples written.
        prompts_kept: prompts with an example.
        dropped: (``prompt``, ``candidate``, ``pair`` or ``example``, reason) -> how many.
        judges: judge -> annotated prompts.
        flipped: ids of pairs whose chosen and rejected were swapped.
        warnings: what a user should look at.
        mixture: rows of each kind and of each combination of asked values, where a method mixes them; how many answers of a
            prompt there are and count, where it weighs them.
        pair_kinds: pairs that ask for attributes, with and without a flip line, and those that do not.
        lines: more of the table.
        held_out: of the kept examples, those that are not for training.
    """

    method: str
    schema: AttributeSchema
    prompts: int = 0
    candidates: int = 0
    kept: int = 0
    prompts_kept: int = 0
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    judges: Counter[str] = field(default_factory=Counter)
    flipped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sides: dict[str, SideStatistics] = field(default_factory=dict)
    lengths: LengthBias = field(default_factory=LengthBias)
    mixture: dict[str, Any] | None = None
    pair_kinds: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    ratings: RatingStatistics = field(default_factory=RatingStatistics)
    held_out: int = 0
    _last_prompt: str | None = None

    def see(self, annotation: Annotation) -> None:
        """Count an annotation that was read."""
        self.prompts += 1
        self.candidates += len(annotation.candidates)
        self.judges[annotation.judge] += 1

    def keep(self, example: Example) -> None:
        """Count an example that is written; examples of one prompt come one after the other."""
        self.kept += 1
        prompt = example.metadata.get("prompt_id", example.id)
        self.prompts_kept += prompt != self._last_prompt
        self._last_prompt = prompt
        if isinstance(example, PreferenceExample):
            self._side("chosen").add(example.chosen, example.chosen_score)
            self._side("rejected").add(example.rejected, example.rejected_score)
            self.lengths.add(example.chosen, example.rejected)
            self.pair_kinds[_kind_of(example)] += self.method == ATTRIBUTE_PREFERENCE
            if example.metadata.get("flipped"):
                self.flipped.append(example.id)
        elif isinstance(example, RatedAnswers):
            self.ratings.add(example, self.schema)
        elif isinstance(example, LabelledExample):
            self._side(DESIRABLE if example.label else UNDESIRABLE).add(example.answer, example.score)
        elif isinstance(example, SteeredAnswers):
            for answer in example.answers:
                self._side("answer").add(answer.text, None)
        else:
            self._side("answer").add(example.turns[-1].content, example.metadata.get("score"))

    def _side(self, name: str) -> SideStatistics:
        if name not in self.sides:
            self.sides[name] = SideStatistics(score_distribution(self.schema))
        return self.sides[name]

    def drop(self, what: str, reason: str, count: int = 1) -> None:
        """Count prompts, candidates, pairs or examples that are left out."""
        self.dropped[what, reason] += count

    def label_hint(self) -> str | None:
        """Return what a training is to be told of labelled answers; None where there are none, or they are in balance."""
        desirable, undesirable = (
            self.sides[name].count if name in self.sides else 0 for name in (DESIRABLE, UNDESIRABLE)
        )
        return weight_hint(desirable, undesirable)

    def paper(self) -> str | None:
        """Return the share of prompts that gave an example beside the paper's; None where it names none."""
        if self.method not in PAPER or not self.prompts:
            return None
        kept, prompts = PAPER[self.method]
        here = self.prompts_kept / self.prompts
        return f"{here:.0%} of the prompts gave an example; in the paper {kept / prompts:.0%} ({kept:,} of {prompts:,})"

    def table(self) -> str:
        """Return the counts as aligned lines."""
        rows = [("prompts", self.prompts), ("candidates", self.candidates)]
        rows += [(f"{what}s dropped: {reason}", count) for (what, reason), count in self.dropped.most_common()]
        rows += [("pairs with chosen and rejected swapped", len(self.flipped))] if self.flipped else []
        rows += [("of the examples held out", self.held_out)] if self.held_out else []
        rows += [(f"examples for {self.method}", self.kept)]
        width = max(len(name) for name, _ in rows)
        lines = [f"  {name:<{width}}  {count:>7,}" for name, count in rows]
        lines += [f"  {name}: {side.line()}" for name, side in self.sides.items()]
        lines += [f"  {line}" for line in self.lines]
        kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(self.pair_kinds.items()) if count)
        lines += [f"  pairs {kinds}"] if kinds else []
        lines += [f"  {line}" for line in self.ratings.lines()]
        return "\n".join(lines + ([f"  {hint}"] if (hint := self.paper()) else []))

    def write(self, path: Path, settings: dict[str, Any]) -> None:
        """Write the counts, the settings and the schema's identity as JSON."""
        content = {
            "method": self.method,
            "prompts": self.prompts,
            "candidates": self.candidates,
            "kept": self.kept,
            "prompts_kept": self.prompts_kept,
            "paper": self.paper(),
            "dropped": [
                {"what": what, "reason": reason, "count": count} for (what, reason), count in self.dropped.most_common()
            ],
            **({"held_out": self.held_out, "ratings": self.ratings.content()} if self.ratings.answers else {}),
            "answers": {name: side.content() for name, side in self.sides.items()},
            "lengths": self.lengths.content() if self.lengths.pairs else None,
            "flipped": self.flipped,
            **({"mixture": self.mixture} if self.mixture else {}),
            **({"pairs": dict(kinds)} if (kinds := +self.pair_kinds) else {}),
            "warnings": self.warnings,
            "judges": dict(self.judges),
            "settings": settings,
            "attribute_schema": {"name": self.schema.name, "fingerprint": self.schema.fingerprint},
        }
        write_json(path, content)


def _kind_of(pair: PreferenceExample) -> str:
    if pair.attributes is None:
        return "unasked"
    return "asked with a flip line" if pair.flip_attributes is not None else "asked"
