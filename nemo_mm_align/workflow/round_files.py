"""Where the files of rounds lie in the results folder of a launch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MODEL_LINK = "model"
"""Leads to the model of the last good round, which the stages after the rounds take."""
TABLE_FILE, RECORD_FILE = "rounds.md", "rounds.json"


@dataclass(frozen=True)
class RoundFiles:
    """The files of one round.

    Args:
        results: folder of the launch.
        number: of the round, from 1.
    """

    results: Path
    number: int

    @property
    def folder(self) -> Path:
        """In which everything lies that the round makes."""
        return self.results / f"round_{self.number}"

    @property
    def prompts(self) -> Path:
        """Its share of the prompts."""
        return self.folder / "prompts.jsonl"

    @property
    def merged(self) -> Path:
        """Its model with the adapters merged, from which the next round starts."""
        return self.folder / "merged"

    @property
    def gathered(self) -> Path:
        """The training sets of this round and all before it, as one."""
        return self.folder / "training_of_all_rounds.jsonl"

    @property
    def record(self) -> Path:
        """What is known of the round, a `RoundRecord`."""
        return self.folder / "round.json"

    @property
    def stopped_by_samples(self) -> Path:
        """Is there, with the reason, where the round ended once its samples were judged."""
        return self.folder / "STOPPED_BY_SAMPLES"

    @property
    def stopped_by_training(self) -> Path:
        """Is there, with the reason, where the round's training was the last one."""
        return self.folder / "STOPPED_BY_TRAINING"
