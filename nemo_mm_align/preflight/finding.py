"""What a check found: green, amber or red, with a remedy; and the findings of many nodes as one list."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


class Level(enum.IntEnum):
    """How bad a finding is."""

    GREEN = 0
    AMBER = 1  # the run works, but slower or at a risk
    RED = 2  # the run would fail


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: green, amber or red.
        title: what was checked; the same check keeps its title on every node.
        detail: what was found.
        remedy: what to do about it; empty where there is nothing to do.
    """

    level: Level
    title: str
    detail: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain values, the level by name."""
        return {**asdict(self), "level": self.level.name.lower()}

    @classmethod
    def from_dict(cls, values: dict[str, str]) -> Finding:
        """Read what `to_dict` wrote."""
        return cls(Level[values["level"].upper()], values["title"], values["detail"], values["remedy"])


def green(title: str, detail: str) -> Finding:
    """All is well."""
    return Finding(Level.GREEN, title, detail)


def amber(title: str, detail: str, remedy: str) -> Finding:
    """The run works, but slower or at a risk."""
    return Finding(Level.AMBER, title, detail, remedy)


def red(title: str, detail: str, remedy: str) -> Finding:
    """The run would fail."""
    return Finding(Level.RED, title, detail, remedy)


def rank_list(ranks: Iterable[int]) -> str:
    """Write rank numbers shortly: ``0-3, 7``."""
    parts: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if parts and rank == parts[-1][1] + 1:
            parts[-1][1] = rank
        else:
            parts.append([rank, rank])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def merge_nodes(found: Sequence[tuple[str, Sequence[Finding]]]) -> list[Finding]:
    """Make one list of the findings of several nodes; what is not the same on all of them names its nodes.

    Args:
        found: (name of the node, its findings), in the order in which nodes shall be named.
    """
    nodes_of: dict[Finding, list[str]] = {}
    order: list[str] = []
    for node, findings in found:
        for finding in findings:
            nodes_of.setdefault(finding, []).append(node)
            if finding.title not in order:
                order.append(finding.title)
    merged = [_named(finding, nodes, len(found)) for finding, nodes in nodes_of.items()]
    return sorted(merged, key=lambda finding: order.index(finding.title))


def _named(finding: Finding, nodes: Sequence[str], total: int) -> Finding:
    if len(nodes) == total:
        return finding
    shown = ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")
    return Finding(finding.level, finding.title, f"{shown}: {finding.detail}", finding.remedy)
