"""The report: verdicts first, then card, versions and commit, then each step's figures and, where it failed, its last lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_mm_align.benchmarks.gpu.table import head
from nemo_mm_align.benchmarks.tables import text_table
from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.verify.outcome import Outcome, Verdict
from nemo_mm_align.verify.plan import STEPS, Step
from nemo_mm_align.verify.redact import redact

_GOOD = {Verdict.PASSED, Verdict.IN_PART, Verdict.SKIPPED, Verdict.NOT_RUN}


@dataclass
class Report:
    """What is known so far; written anew after every step.

    Args:
        path: the file.
        facts: card, driver, versions, command, begin, as `benchmarks.gpu.facts.describe` finds them.
        commit: of the checkout, or of the image.
        how: what the steps ran on, in a sentence.
        built: what is known of the image's build.
    """

    path: Path
    facts: Mapping[str, Any]
    commit: str
    how: str
    built: str | None = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, step: Step, outcome: Outcome, seconds: float) -> None:
        """Note a step's outcome and write the report."""
        self.outcomes[step.name], self.seconds[step.name] = outcome, seconds
        self.write()

    def write(self) -> None:
        """Write all that is known."""
        write_text(self.path, redact(self.markdown()))

    @property
    def good(self) -> bool:
        """Whether every step that was run passed."""
        return all(outcome.verdict in _GOOD for outcome in self.outcomes.values())

    def markdown(self) -> str:
        """The whole text."""
        parts = ["# Verification of nemo_mm_align", self._table(), self.how, head([self.facts])]
        parts[-1] += f"  \nCommit: {self.commit}"
        parts += [self._section(step) for step in STEPS if step.name in self.outcomes]
        return "\n\n".join(filter(None, parts)) + "\n"

    def _table(self) -> str:
        rows = [("build", Verdict.PASSED.value, "", self.built)] if self.built else []
        for step in STEPS:
            outcome = self.outcomes.get(step.name, Outcome(Verdict.NOT_RUN, ""))
            seconds = f"{self.seconds[step.name]:.0f}" if step.name in self.seconds else ""
            shown = f"**{outcome.verdict.value}**" if outcome.verdict not in _GOOD else outcome.verdict.value
            rows.append((step.name, shown, seconds, outcome.found))
        return text_table(("step", "verdict", "seconds", "found"), rows)

    def _section(self, step: Step) -> str:
        outcome = self.outcomes[step.name]
        parts = [outcome.figures]
        if outcome.verdict not in _GOOD and outcome.lines:
            parts.append("Last lines:\n\n```\n" + "\n".join(outcome.lines).replace("```", "'''") + "\n```")
        text = "\n\n".join(filter(None, parts))
        return f"## {step.name}: {step.what}\n\n{text}" if text else ""
