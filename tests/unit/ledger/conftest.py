"""Files to label, and a run of the stage on them."""

from pathlib import Path

import pytest

from nemo_mm_align.labeling import stage
from nemo_mm_align.labeling.stage import LabelSettings, LabelSummary, label
from nemo_mm_align.schema.attributes import AttributeSchema
from tests.judge_server import (
    Files,
    JudgeServer,
    make_files,
)
from tests.unit.ledger.runs import COUNT, JUDGES, KEY, Run, annotations_path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path, COUNT)


@pytest.fixture
def run(files: Files, helpsteer: AttributeSchema, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(stage, "report_quality", lambda *arguments: None)  # seconds of each run
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def run(server: JudgeServer, judge: str = "gemini", **changes: object) -> LabelSummary:
        paths = {"prompts": files.prompts_path, "candidates": files.candidates_path, "out": annotations_path(files)}
        pace = {"concurrency": 1, "backoff_s": 0.0, "max_backoff_s": 0.0}
        settings = {**paths, "attribute_schema": helpsteer, "runner": pace, **changes}
        return label(LabelSettings.model_validate(settings), JUDGES[judge](server.address))

    return run
