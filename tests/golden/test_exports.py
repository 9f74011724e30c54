"""Exported folders are those of 1a72c78: each tensor to the bit (a merged one to its rounding), each file byte for byte."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.golden.differences import ABSENT, listed
from tests.golden.exports import EXPORTS, digests, same, words
from tests.golden.runs import GOLDEN
from tests.golden.worker import run_scripts

pytestmark = pytest.mark.e2e


def short(value: object) -> str:
    """What the table of differences calls a file's text."""
    return ABSENT if value is None else hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that today's code exports, and the model beside them."""
    folder = tmp_path_factory.mktemp("exports")
    model = shutil.copytree(GOLDEN / "model", folder / "model")
    run = shutil.copytree(GOLDEN / "run", folder / "run")
    calls = [("convert.py", call) for name in EXPORTS for call in words(name, model, run, folder)]
    run_scripts(folder, calls)
    return folder


@pytest.mark.parametrize("name", EXPORTS)
def test_a_folder_is_exported_as_before(name: str, made: Path) -> None:
    before = json.loads((GOLDEN / "exports.json").read_text(encoding="utf-8"))[name]
    now = digests(made / name, made / "model/model.safetensors", made / "model")
    found = {
        (key, short(before.get(key)), short(now.get(key)))
        for key in {**before, **now}
        if not same(before.get(key), now.get(key))
    }
    allowed = {(row["file"], row["before"], row["after"]) for row in listed("exports") if name in row["folders"]}
    assert found == allowed, {key: now.get(key) for key, *_ in found ^ allowed}
