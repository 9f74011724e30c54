"""docs/guarantees.md names tests: they must be there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.distributed import REPOSITORY

_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::([\w:]+))?`")


def missing(page: str) -> list[str]:
    """Tests that a page names and that do not exist."""
    found = []
    for path, name in _TEST.findall(page):
        file = REPOSITORY / path
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if not text or any(
            not re.search(rf"^\s*(def|class) {part}\b", text, re.M) for part in filter(None, name.split("::"))
        ):
            found.append(f"{path}::{name}")
    return found


def test_every_promise_is_held_by_a_test_that_exists() -> None:
    page = Path(REPOSITORY / "docs/guarantees.md").read_text(encoding="utf-8")
    lines = [
        line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "| ---"))
    ]
    assert len(lines) > 50 and all(_TEST.search(line) for line in lines)
    assert missing(page) == []


def test_a_test_that_does_not_exist_is_found() -> None:
    here = "tests/unit/test_guarantees.py"
    page = (
        f"`{here}::test_a_test_that_does_not_exist_is_found` `{here}::test_nothing` `tests/unit/no.py::test_x` `{here}`"
    )
    assert missing(page) == [f"{here}::test_nothing", "tests/unit/no.py::test_x"]
