"""One tokenised example, between the length plan and the collation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nemo_mm_align.prompts import EncodedSequence


@dataclass
class Sample:
    """An example's sequences, which share its images.

    Args:
        id: of the record, for messages and logs.
        image_paths: in order of appearance in each sequence.
        sequences: one for imitation (SFT, rejection sampling, SteerLM); chosen, then rejected, for a preference.
        reference_log_probs: one per sequence (sum over answer tokens, nats), or None where not computed yet.
    """

    id: str
    image_paths: list[Path] = field(default_factory=list)
    sequences: list[EncodedSequence] = field(default_factory=list)
    reference_log_probs: list[float] | None = None

    @property
    def prefix_length(self) -> int:
        """Tokens before the first answer token; equal in all sequences of a preference."""
        return min(sequence.prompt_length for sequence in self.sequences)

    def row_lengths(self, shared_prefix: bool) -> list[int]:
        """Lengths of the rows that this sample takes: one per sequence, or one packed row (prefix once)."""
        lengths = [len(sequence) for sequence in self.sequences]
        if not shared_prefix or len(lengths) == 1:
            return lengths
        return [self.prefix_length + sum(length - self.prefix_length for length in lengths)]
