"""A small miniature comes to the results that are pinned: every count, name, setting and measured number."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed import REPOSITORY
from tests.golden.differences import listed
from tests.golden.miniature import changes, in_format_1, words
from tests.golden.runs import GOLDEN
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def results() -> dict[str, object]:
    return json.loads(gzip.decompress((GOLDEN / "miniature.json.gz").read_bytes()))


def test_results_are_those_that_are_pinned(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "scripts/miniature.py"), *words(tmp_path / "run")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    now = in_format_1(json.loads((tmp_path / "run/results.json").read_text(encoding="utf-8")))
    found = changes(results(), now)
    assert found == {row["key"]: (row["before"], row["after"]) for row in listed("miniature")}


def test_a_change_is_noticed_with_its_key() -> None:
    """The comparison itself: a count, a name, a loss beyond rounding, a key that goes; a date is not compared."""
    before, now = results(), json.loads(json.dumps(results()))
    now["created"] = "another day"
    now["methods"]["dpo"]["counts"]["score"] += 1
    now["methods"]["dpo"]["training"]["losses"][0][1] *= 1.001
    now["methods"]["steerlm_paper"]["training"]["losses"][0][1] *= 1 + 1e-6
    del now["layouts"]["sample"]["tensor"]
    assert set(changes(before, now)) == {
        ".methods.dpo.counts.score", ".methods.dpo.training.losses.0.1", ".layouts.sample.tensor",
    }  # fmt: skip
