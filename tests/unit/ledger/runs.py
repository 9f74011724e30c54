"""Runs of the labelling stage against a local judge server, and what they leave."""

import json
from collections.abc import Callable
from pathlib import Path

from nemo_mm_align.labeling.judges.rubric_judge import RubricJudge
from nemo_mm_align.labeling.stage import LabelSummary
from nemo_mm_align.llm.clients.gemini import Gemini
from nemo_mm_align.llm.clients.google_genai import GoogleGenai
from nemo_mm_align.llm.clients.openai_compatible import OpenAICompatible
from nemo_mm_align.schema.records import Annotation, read_records
from tests.judge_server import (
    Files,
    true_ratings,
)

KEY = "test-key-0123456789"
COUNT = 3
Run = Callable[..., LabelSummary]
JUDGES = {
    "gemini": lambda address: RubricJudge(Gemini("judge-1", api_endpoint=address)),
    "google_genai": lambda address: RubricJudge(GoogleGenai("judge-1", api_endpoint=address)),
    "openai": lambda address: RubricJudge(OpenAICompatible(f"{address}/v1", "judge-1")),
}


def annotations_path(files: Files) -> Path:
    return files.folder / "annotations.jsonl"


def ledger_path(files: Files) -> Path:
    return files.folder / "annotations.ledger.jsonl"


def lines_of(files: Files) -> list[dict]:
    return [json.loads(line) for line in ledger_path(files).read_text(encoding="utf-8").splitlines()]


def write_lines(files: Files, lines: list[dict]) -> None:
    text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    ledger_path(files).write_text(text, encoding="utf-8")


def assert_right(files: Files, count: int = COUNT) -> None:
    found = list(read_records(annotations_path(files), Annotation))
    assert len(found) == count
    for index, annotation in enumerate(found):
        for candidate in annotation.candidates:
            assert candidate.ratings == true_ratings(files.image(index), candidate.text)
