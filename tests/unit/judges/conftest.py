"""What all tests of judges need: a key for each service, and files to be judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.judge_server import Files, make_files
from tests.unit.judges.services import set_keys


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    set_keys(monkeypatch)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path, 3)
