"""The stage behind ``scripts/attribute_report.py``: files of values in, a page and its numbers out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemo_mm_align.core.atomic import write_json, write_text
from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.lock import owned_output
from nemo_mm_align.core.outputs import file_to_write
from nemo_mm_align.evaluation.attribute_report.measures import SCORE, Told, tell, with_sum
from nemo_mm_align.evaluation.attribute_report.page import render_report
from nemo_mm_align.evaluation.attribute_report.settings import ReportSettings
from nemo_mm_align.evaluation.attribute_report.values import Answers, Array, ValueFile, in_common, read_values
from nemo_mm_align.evaluation.attribute_report.verdicts import CEILING, MODEL, PROBE, SHUFFLED, verdicts
from nemo_mm_align.objectives.rating import complete_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What the page shows and the JSON holds.

    Attributes:
        columns: by attribute (and `SCORE`, where attributes have weights), by column.
        sentences: verdicts by the same.
    """

    settings: ReportSettings
    weights: Mapping[str, float]
    answers: Answers
    columns: Mapping[str, Mapping[str, Told]]
    sentences: Mapping[str, list[str]]

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        attributes = {
            name: {column: told.as_json() for column, told in columns.items()} for name, columns in self.columns.items()
        }
        return {
            "prompts": self.answers.prompts,
            "answers": len(self.answers.keys),
            "judged_answers_left_out": self.answers.left_out,
            "weights": dict(self.weights),
            "attributes": attributes,
            "verdicts": self.sentences,
            "settings": self.settings.model_dump(mode="json"),
        }


def report_from_config(values: Mapping[str, Any]) -> Report:
    """Read the files, write ``out`` (HTML) and the same name with ``.json``; return what they show.

    Raises:
        UserError: a file is missing, broken, of another schema, or has no answer in common with the judged ones.
    """
    settings = read(ReportSettings, values)
    schema, out = settings.attribute_schema, settings.out
    if out.suffix != ".html":
        raise UserError(f"out={out}: a page of HTML is written there; give a name that ends in .html.")
    weights = complete_weights(schema, settings.weights, "weights")
    for path in (out, out.with_suffix(".json")):
        file_to_write(path)
    files = {name: read_values(path, schema) for name, path in _paths(settings).items()}
    with owned_output(out):
        report = make_report(settings, weights, files)
        write_json(out.with_suffix(".json"), report.as_json())
        write_text(out, render_report(report))
    for sentence in (sentence for sentences in report.sentences.values() for sentence in sentences):
        logger.info("%s", sentence)
    logger.info("wrote %s and %s", out, out.with_suffix(".json"))
    return report


JUDGED = "judged"


def _paths(settings: ReportSettings) -> dict[str, Path]:
    given = {
        JUDGED: settings.judged,
        MODEL: settings.predicted,
        CEILING: settings.repeat,
        SHUFFLED: settings.shuffled,
        PROBE: settings.probe,
    }
    return {name: path for name, path in given.items() if path is not None}


def make_report(settings: ReportSettings, weights: Mapping[str, float], files: Mapping[str, ValueFile]) -> Report:
    """Compare what the files say.

    All columns but the repetition, which may cover a part of the prompts, are of the same answers.

    Args:
        files: by column; `JUDGED` and `MODEL` are there.
    """
    told = {name: file for name, file in files.items() if name not in (JUDGED, CEILING)}
    answers = in_common([files[JUDGED], *told.values()])
    judged_NT = with_sum(answers.table(files[JUDGED]), weights)
    tables = {name: with_sum(answers.table(file), weights) for name, file in told.items()}
    for table_NT in tables.values():
        judged_NT = np.where(np.isnan(table_NT), np.nan, judged_NT)
    if CEILING in files:
        tables[CEILING] = with_sum(_again(answers, files[CEILING], files[JUDGED]), weights)
    names = [*weights, *([SCORE] if any(weights.values()) else [])]
    columns = {
        name: {
            column: tell(table_NT[:, place], judged_NT[:, place], answers.prompts_N, settings.bins, settings.seed)
            for column, table_NT in tables.items()
        }
        for place, name in enumerate(names)
    }
    sentences = {name: list(verdicts(name, found, settings.seed)) for name, found in columns.items()}
    return Report(settings, weights, answers, columns, sentences)


def _again(answers: Answers, repeat: ValueFile, judged: ValueFile) -> Array:
    """Values of the repetition, nan for answers that it does not rate."""
    in_common([judged, repeat])  # refuses a file of something else
    unknown = tuple(np.nan for _ in next(iter(repeat.values.values())))
    return np.array([repeat.values.get(key, unknown) for key in answers.keys])
