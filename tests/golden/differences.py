"""The table of deliberate differences, ``differences.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ABSENT = "absent"


def listed(section: str) -> list[dict[str, Any]]:
    """Return the rows of one section of the table."""
    table = yaml.safe_load((Path(__file__).parent / "differences.yaml").read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = table[section]
    assert all(row["reason"] for row in rows)
    return rows
