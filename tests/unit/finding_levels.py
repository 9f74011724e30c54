"""The doctor's findings as its tests compare them."""

from __future__ import annotations


def levels(findings):
    return [finding.level.name for finding in findings]
