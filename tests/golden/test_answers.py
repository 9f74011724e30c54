"""Files of answers that 1a72c78 was killed at: today's code keeps what is there and ends with the answers of a whole run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.golden.answers import DECODING, words
from tests.golden.runs import GOLDEN
from tests.golden.worker import run_scripts

pytestmark = pytest.mark.e2e

ANSWERS = GOLDEN / "answers"


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


def marked(line: str) -> str:
    """A row as today's code would not answer it."""
    return line.replace('"text":"', '"text":"kept ', 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The half-finished files, their first rows marked, after today's runs; and what these said."""
    folder = tmp_path_factory.mktemp("answers")
    calls = []
    for name in DECODING:
        for file in ANSWERS.glob(f"half_{name}.*"):
            shutil.copy(file, folder)
        out = folder / f"half_{name}.jsonl"
        first, *rest = lines(out)
        out.write_text("".join([marked(first), *rest]), encoding="utf-8")
        calls.append(("generate.py", words(name, GOLDEN / "model", GOLDEN / "data", out)))
    return folder, run_scripts(folder, calls)


@pytest.mark.parametrize("name", DECODING)
def test_it_goes_on_with_a_half_finished_file(name: str, finished: tuple[Path, str]) -> None:
    folder, said = finished
    half, whole = lines(ANSWERS / f"half_{name}.jsonl"), lines(ANSWERS / f"{name}.jsonl")
    assert 0 < len(half) < len(whole) and set(half) < set(whole) and marked(half[0]) != half[0]
    out = folder / f"half_{name}.jsonl"
    assert lines(out) == [marked(line) if line == half[0] else line for line in whole]
    assert f"{out}: answers to {len(whole)} requests, {len(half)} of them from before" in said
