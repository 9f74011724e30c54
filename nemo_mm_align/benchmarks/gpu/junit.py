"""What pytest's JUnit report says; needs neither torch nor pytest."""

from __future__ import annotations

import re
import xml.etree.ElementTree as tree
from pathlib import Path
from typing import Any

_MESSAGE_LENGTH = 160


def counts(report: Path) -> dict[str, Any]:
    """Return tests, failures, errors, skipped, seconds, and what failed; ``error`` alone where there is no report."""
    suite = _suite(report)
    if suite is None:
        return {"error": "pytest wrote no report, see log.txt"}
    failed = [
        f"{case.get('name')}: {(fault.get('message') or 'no message').splitlines()[0]}"[:_MESSAGE_LENGTH]
        for case in suite
        for fault in (*case.findall("failure"), *case.findall("error"))
    ]
    numbers = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    return {**numbers, "seconds": float(suite.get("time", 0)), "failed": failed}


def skip_reasons(report: Path) -> list[str]:
    """Return why each skipped test or module was skipped."""
    suite = _suite(report)
    return [_reason(skip) for case in suite for skip in case.findall("skipped")] if suite is not None else []


def _suite(report: Path) -> tree.Element | None:
    try:
        return tree.parse(report).getroot().find("testsuite")
    except (OSError, tree.ParseError):
        return None


def _reason(skip: tree.Element) -> str:
    """The reason; of a module that was skipped as a whole it stands in the text alone."""
    whole = re.search(r"Skipped: (.*?)['\"]\)?$", skip.text or "", re.DOTALL)
    return (whole[1] if whole else skip.get("message") or "no reason given").splitlines()[0][:_MESSAGE_LENGTH]
