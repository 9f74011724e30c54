"""Training sets built from the golden annotations are those of 1a72c78, and so is what is said of them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.golden.building import METHODS, words
from tests.golden.miniature import changes
from tests.golden.runs import GOLDEN
from tests.golden.worker import run_scripts

pytestmark = pytest.mark.e2e

BUILT = GOLDEN / "built"
NEW = {".settings.rating_noise": ("absent", 0.0)}
"""Settings that earlier sets had not, at the values at which they do nothing."""
RATINGS = re.compile(rb'"(chosen|rejected)_ratings":\{[^}]*\},')


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(GOLDEN / "labels", tmp_path_factory.mktemp("built") / "labels")
    run_scripts(folder, [("build.py", words(method, folder, folder)) for method in METHODS])
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_a_training_set_is_the_same_bytes(method: str, made: Path) -> None:
    """Apart from the ratings of pairs, which earlier ones had not."""
    found = RATINGS.sub(b"", (made / f"{method}.jsonl").read_bytes())
    assert found == (BUILT / f"{method}.jsonl").read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_its_summary_says_the_same(method: str, made: Path) -> None:
    name = f"{method}.jsonl.summary.json"
    found = changes(json.loads((BUILT / name).read_bytes()), json.loads((made / name).read_bytes()))
    assert found.items() <= NEW.items()
