"""The table of rounds: a line per round, aligned, so that it reads in a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from nemo_mm_align.core.atomic import write_json, write_text
from nemo_mm_align.workflow.round_files import MODEL_LINK, RECORD_FILE, TABLE_FILE
from nemo_mm_align.workflow.round_record import METRICS, RoundRecord

_NONE = "-"


def write_table(results: Path, rounds: Sequence[RoundRecord]) -> str:
    """Write ``rounds.json`` and ``rounds.md`` into a results folder, at least one round; return the table's text."""
    text = table_text(rounds)
    stopped = next((one.stopped for one in reversed(rounds) if one.stopped), None)
    content = {
        "rounds": [one.model_dump(mode="json") for one in rounds],
        "stopped": stopped,
        "model": rounds[-1].model,
    }
    write_json(results / RECORD_FILE, content)
    write_text(results / TABLE_FILE, text)
    return text


def table_text(rounds: Sequence[RoundRecord]) -> str:
    """Return table and what to know of it."""
    names = list(dict.fromkeys(name for one in rounds if one.samples for name in one.samples.attributes))
    metrics = [name for name in METRICS if any(one.trained and name in one.trained.metrics for one in rounds)]
    head = ["round", "score", *names, "words", "cut", "examples", "prompts kept", *metrics, "verdict"]
    rows = [head, *(_row(one, names, metrics) for one in rounds)]
    lines = [*_aligned(rows), "", *_notes(rounds)]
    return "\n".join(lines) + "\n"


def _row(one: RoundRecord, names: Sequence[str], metrics: Sequence[str]) -> list[str]:
    samples, built, trained = one.samples, one.training_set, one.trained
    rated = [f"{samples.attributes[name]:.2f}" if samples else _NONE for name in names]
    trained_to = [f"{trained.metrics[name]:.4f}" if trained and name in trained.metrics else _NONE for name in metrics]
    return [
        str(one.round),
        _score(one),
        *rated,
        f"{samples.words:.1f}" if samples else _NONE,
        f"{samples.cut:.0%}" if samples else _NONE,
        f"{built.examples:,}" if built else _NONE,
        f"{built.prompts_kept:.0%}" if built else _NONE,
        *trained_to,
        trained.summary if trained else _NONE,
    ]


def _score(one: RoundRecord) -> str:
    if one.samples is None:
        return _NONE
    error = one.samples.standard_error
    return f"{one.samples.score:.2f}" + ("" if error is None else f" ± {error:.2f}")


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        yield "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        if number == 0:
            yield "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"


def _notes(rounds: Sequence[RoundRecord]) -> Iterable[str]:
    yield "A round's samples are of the model before its training: score and attributes say how good that model was."
    yield ""
    for one in rounds:
        made = f", trained {one.trained.folder}" if one.trained else ""
        yield f"- round {one.round}: sampled from {one.sampled_from}{made}"
    for one in rounds:
        if one.stopped:
            yield f"- {one.stopped}"
    yield f"- the stages after the rounds take {rounds[-1].model} (the link {MODEL_LINK})"
