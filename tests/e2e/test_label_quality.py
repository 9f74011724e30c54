"""Labelling, a repetition on a sample, and the agreement of the two, as commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.inputs import Selection
from nemo_mm_align.labeling.provenance import check_selection
from nemo_mm_align.schema.records import Annotation, read_records
from tests.e2e.test_label import Command
from tests.judge_server import judge_server, make_files
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.e2e


def test_a_sample_is_judged_again_and_compared(tmp_path: Path, repository: Path) -> None:
    files = make_files(tmp_path, 12)
    with judge_server() as server:
        command = Command(repository, files, server)
        code, output = command.run()
        assert code == 0, output
        code, output = command.run("repeat=1", "sample=5", "out=again.jsonl")
        assert code == 0, output
        assert len(server.exchanges) == 12 + 5
    with pytest.raises(UserError, match="holds judgements of repeat=0; give those of repeat=1 a file of their own"):
        check_selection(tmp_path / "annotations.jsonl", Selection(repeat=1))
    with pytest.raises(UserError, match="holds the annotations of all prompts; sample=11 seed=0 would replace them"):
        check_selection(tmp_path / "annotations.jsonl", Selection(sample=11))
    check_selection(tmp_path / "again.jsonl", Selection(repeat=1, sample=6))
    for smaller_or_other in (Selection(repeat=1, sample=4), Selection(repeat=1, sample=5, seed=1)):
        with pytest.raises(UserError, match="holds the annotations of sample=5 seed=0; sample="):
            check_selection(tmp_path / "again.jsonl", smaller_or_other)
    check_selection(tmp_path / "again.jsonl", Selection(repeat=1))
    first = {item.prompt.id: item for item in read_records(tmp_path / "annotations.jsonl", Annotation)}
    second = list(read_records(tmp_path / "again.jsonl", Annotation))
    assert len(second) == 5 and all(item.request_key != first[item.prompt.id].request_key for item in second)
    assert any(item.order != first[item.prompt.id].order for item in second)
    settings = json.loads((tmp_path / "again.settings.json").read_text(encoding="utf-8"))
    assert settings["configuration"] == second[0].configuration == first[second[0].prompt.id].configuration
    assert (settings["repeat"], settings["sample"]) == (1, 5) and "rubric_text" in settings["settings"]
    assert settings["attribute_schema"]["name"] == "helpsteer"
    assert "12 prompts" in (tmp_path / "annotations.html").read_text(encoding="utf-8")

    script = [sys.executable, str(repository / "scripts/agreement.py"), "annotations=annotations.jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [*script, "against=[again.jsonl]"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads((tmp_path / "annotations.agreement.json").read_text(encoding="utf-8"))
    # The server judges by content alone: a right shuffle and its undoing give the same ratings again.
    assert found["prompts"] == 5 and found["attributes"]["helpfulness"]["exact"] == [1, 1, 1]
    assert found["only_second"] == 0 and found["pairwise"]["accuracy"][0] == 1
    assert "<h2>Agreement: " in (tmp_path / "annotations.html").read_text(encoding="utf-8")
