"""Files and folders of a job, clocks, and values that are left open."""

from __future__ import annotations

import os
from pathlib import Path

from nemo_mm_align.preflight import storage
from nemo_mm_align.preflight.finding import Level
from nemo_mm_align.preflight.job import Job
from tests.unit.finding_levels import levels


def test_inputs(tmp_path):
    data = tmp_path / "a.jsonl"
    data.write_text("{}\n")
    found = storage.check_inputs({"data.train": str(data), "model.hf_path": str(tmp_path / "gone")})
    assert levels(found) == ["GREEN", "RED"] and "gone: no such file or folder" in found[1].detail
    assert storage.check_inputs({"data.train": "org/dataset"}) == []


def test_unreadable_input(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *arguments: False)  # root may read everything
    (finding,) = storage.check_inputs({"read[0]": str(tmp_path)})
    assert finding.level == Level.RED and "cannot be read" in finding.detail


def test_outputs(tmp_path):
    found = storage.check_outputs([tmp_path, tmp_path / "new", Path("/proc/version/results")])
    assert levels(found) == ["GREEN", "GREEN", "RED"]


def test_disk():
    assert storage.check_disk(100, 10, 2).level == Level.GREEN
    assert storage.check_disk(40, 10, 2).level == Level.AMBER
    assert storage.check_disk(20, 10, 2).level == Level.RED


def test_token_is_seen_only_in_the_same_folder(tmp_path):
    assert storage.write_token(tmp_path / "a", "token") is None
    assert storage.wait_for_token(tmp_path / "a", "token", 60) < 60
    assert storage.wait_for_token(tmp_path / "b", "token", 0.1) is None
    storage.remove_token(tmp_path / "a", "token")
    assert list((tmp_path / "a").iterdir()) == []
    assert "Not a directory" in storage.write_token(Path("/proc/version/x"), "token")


def test_shared_folder_names_the_blind_ranks():
    nodes = {0: "a", 1: "a", 2: "b", 3: "b"}
    assert storage.check_shared(Path("/r"), dict.fromkeys(nodes, 0.1), nodes).level == Level.GREEN
    assert storage.check_shared(Path("/r"), {**dict.fromkeys(nodes, 0.1), 3: 9.0}, nodes).level == Level.AMBER
    blind = storage.check_shared(Path("/r"), {0: 0.1, 1: 0.1, 2: None, 3: None}, nodes)
    assert blind.level == Level.RED and "ranks 2-3 (b)" in blind.detail


def test_clocks():
    assert storage.check_clocks({0: 0.0, 1: 0.01}, {}).level == Level.GREEN
    late = storage.check_clocks({0: 0.0, 1: -3.5}, {1: "b"})
    assert late.level == Level.AMBER and "3.50 s apart (rank 1, b)" in late.detail


def test_open_values():
    assert storage.check_open_values(Job()) == []
    (finding,) = storage.check_open_values(
        Job(training={"data": {"train": "???"}, "exp_manager": {"exp_dir": "r"}, "model": {}})
    )
    assert finding.level == Level.AMBER and "data.train, model.hf_path" in finding.detail
