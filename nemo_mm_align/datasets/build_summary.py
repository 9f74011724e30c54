"""What a builder kept and what it dropped, as a table and as a file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.records import Annotation


@dataclass
class BuildSummary:
    """Counts of one built training set.

    Attributes:
        prompts, candidates: read.
        kept: examples written.
        dropped: (``prompt`` or ``candidate``, reason) -> how many.
        judges: judge -> annotated prompts.
    """

    method: str
    prompts: int = 0
    candidates: int = 0
    kept: int = 0
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    judges: Counter[str] = field(default_factory=Counter)

    def see(self, annotation: Annotation) -> None:
        """Count an annotation that was read."""
        self.prompts += 1
        self.candidates += len(annotation.candidates)
        self.judges[annotation.judge] += 1

    def keep(self) -> None:
        """Count an example that is written."""
        self.kept += 1

    def drop(self, what: str, reason: str) -> None:
        """Count a prompt or candidate that gave no example."""
        self.dropped[what, reason] += 1

    def table(self) -> str:
        """Return the counts as aligned lines."""
        rows = [("prompts", self.prompts), ("candidates", self.candidates)]
        rows += [(f"{what}s dropped: {reason}", count) for (what, reason), count in self.dropped.most_common()]
        rows += [(f"examples for {self.method}", self.kept)]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"  {name:<{width}}  {count:>7,}" for name, count in rows)

    def write(self, path: Path, settings: dict[str, Any], schema: AttributeSchema) -> None:
        """Write the counts, the settings and the schema's identity as JSON."""
        content = {
            "method": self.method,
            "prompts": self.prompts,
            "candidates": self.candidates,
            "kept": self.kept,
            "dropped": [
                {"what": what, "reason": reason, "count": count} for (what, reason), count in self.dropped.most_common()
            ],
            "judges": dict(self.judges),
            "settings": settings,
            "attribute_schema": {"name": schema.name, "fingerprint": schema.fingerprint},
        }
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
