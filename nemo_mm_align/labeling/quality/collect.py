"""Reads annotations and ledger once, line by line, into the sums that the report shows."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.core.running_mean import Mean
from nemo_mm_align.labeling.input_reader import numbered_lines
from nemo_mm_align.labeling.provenance import read_settings
from nemo_mm_align.labeling.quality.statistics import Correlations, Histogram, Timeline
from nemo_mm_align.llm.ledger import REMEDY
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Annotation, parse_line

LENGTH, SCORE = "length (words)", "score"


@dataclass
class Quality:
    """What there is to know of an annotations file.

    Args:
        path: the file.
        schema: that it was rated on.
        settings: what it was made with (`provenance.read_settings`).
        prompts, candidates: how many it holds.
        judges: annotations per judge; `configurations` per hash of what they were made with.
        histograms: per attribute, and of the score.
        at_best: per attribute with a direction, how many candidates have its best value.
        correlations: of attributes, score and length.
        positions: per place in which candidates were shown, their score minus the mean of their prompt.
        position_scores: per such place, the score itself.
        samples: a few annotations, drawn by the hash of their prompt's id.
        timeline: mean score of the judgements in the order of the ledger, corrections left out.
        calls: attempts in the ledger; `failures` counts the failed ones by class, `usage` sums tokens.
    """

    path: Path
    schema: AttributeSchema
    settings: dict[str, Any]
    prompts: int = 0
    candidates: int = 0
    judges: Counter[str] = field(default_factory=Counter)
    configurations: Counter[str] = field(default_factory=Counter)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    at_best: Counter[str] = field(default_factory=Counter)
    correlations: Correlations = field(default_factory=lambda: Correlations(()))
    positions: list[Mean] = field(default_factory=list)
    position_scores: list[Mean] = field(default_factory=list)
    samples: list[Annotation] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline)
    calls: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    usage: Counter[str] = field(default_factory=Counter)


def collect(annotations: Path, schema: AttributeSchema, ledger: Path | None = None, samples: int = 8) -> Quality:
    """Return the statistics of an annotations file, and of its attempts where there is a ledger.

    Raises:
        UserError: a file is missing or broken, or annotations lack an attribute of the schema.
    """
    quality = Quality(annotations, schema, read_settings(annotations))
    scored = (SCORE,) if schema.score else ()
    quality.correlations = Correlations((*schema.names, *scored, LENGTH))
    quality.histograms = {item.name: Histogram(item.minimum, item.maximum, item.bins) for item in schema.attributes}
    if scored:
        quality.histograms[SCORE] = Histogram(schema.worst_total, schema.perfect_total, schema.score_bins)
    drawn: list[tuple[int, int, Annotation]] = []
    for place, text in numbered_lines(annotations, Annotation):
        annotation = parse_line(Annotation, text, annotations, place.line)
        try:
            _add(quality, annotation)
        except UserError as error:
            remedy = "correct the line, or label again: annotations are written anew from the ledger."
            raise RecordError(annotations, place.line, str(error), remedy) from None
        drawn_key = int.from_bytes(hashlib.sha256(annotation.prompt.id.encode()).digest()[:8], "big")
        heapq.heappush(drawn, (-drawn_key, quality.prompts, annotation))
        if len(drawn) > samples:
            heapq.heappop(drawn)
    quality.samples = [item[2] for item in sorted(drawn, reverse=True)]
    if ledger is not None and ledger.is_file():
        for number, attempt in _attempts(ledger, set(quality.configurations)):
            try:
                _add_attempt(quality, attempt)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise RecordError(ledger, number, f"not an attempt at a judgement ({error}).", REMEDY) from None
    return quality


def _add(quality: Quality, annotation: Annotation) -> None:
    quality.prompts += 1
    quality.judges[annotation.judge] += 1
    quality.configurations[annotation.configuration] += 1
    scores = [_add_candidate(quality, candidate.text, candidate.ratings) for candidate in annotation.candidates]
    if quality.schema.score and len(annotation.order) == len(scores):
        mean = sum(scores) / len(scores)
        while len(quality.positions) < len(scores):
            quality.positions.append(Mean())
            quality.position_scores.append(Mean())
        for position, index in enumerate(annotation.order):
            quality.position_scores[position].add(scores[index])
            if len(scores) > 1:
                quality.positions[position].add(scores[index] - mean)


def _add_candidate(quality: Quality, text: str, ratings: Mapping[str, float]) -> float:
    """Take one candidate in and return its score (0 for a schema without one)."""
    schema = quality.schema
    checked = schema.check(ratings)
    quality.candidates += 1
    for name, value in checked.items():
        quality.histograms[name].add(float(value))
        quality.at_best[name] += value == best_value(schema[name])
    score = schema.total(checked) if schema.score else 0.0
    if schema.score:
        quality.histograms[SCORE].add(float(score))
    row = [*checked.values(), *([score] if schema.score else []), len(text.split())]
    quality.correlations.add([float(value) for value in row])
    return score


def best_value(attribute: Attribute) -> float | None:
    """Return the good end of an attribute; for a matter of taste its maximum."""
    return attribute.minimum if attribute.higher_is_better is False else attribute.maximum


def _attempts(ledger: Path, configurations: set[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, attempt) of the configurations (of all, where annotations name none)."""
    with ledger.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):  # the torn last line of a run that was killed; the next run removes it
                continue
            is_attempt = isinstance(value, dict) and "key" in value
            if is_attempt and (value.get("configuration") in configurations or configurations == {""}):
                yield number, value


def _add_attempt(quality: Quality, attempt: Mapping[str, Any]) -> None:
    quality.calls += 1
    quality.usage.update(attempt.get("usage") or {})
    if attempt.get("status") != "ok":
        quality.failures[str(attempt.get("kind"))] += 1
    elif quality.schema.score and attempt.get("ratings") and not attempt.get("revision"):
        scores = [quality.schema.total(ratings) for ratings in attempt["ratings"]]
        quality.timeline.add(sum(scores) / len(scores))
