"""Settings of the benchmark's part ``lengths``: mistakes are named before anything is measured."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from nemo_mm_align.benchmarks.lengths.settings import LengthsSize
from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError


@pytest.fixture
def size(repository: Path) -> dict[str, Any]:
    return yaml.safe_load((repository / "conf/benchmark/size/smoke.yaml").read_text(encoding="utf-8"))["lengths"]


def test_a_case_without_lines_is_named(size: dict[str, Any]) -> None:
    del size["lines"]["steerlm"]
    with pytest.raises(UserError, match=r"models\.\w+\.cases: 'steerlm' has no lines\. Give lines\.steerlm"):
        read(LengthsSize, size, "size.lengths")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"levers": ["attention", "mpl"]}, r"levers.*mlp"),
        ({"engine": {"levers": {"mlp": True}}}, r"engine\.levers: name those that are pulled in levers"),
        ({"engine": {"recompute": "everything"}}, r"recompute"),
    ],
)
def test_a_line_s_mistakes_are_named(size: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    read(LengthsSize, size, "size.lengths")
    size["lines"]["dpo"]["padded"] = changes
    with pytest.raises(UserError, match=said):
        read(LengthsSize, size, "size.lengths")
