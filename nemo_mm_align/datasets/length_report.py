"""What the length plan found: lengths, token counts and dropped examples; a sample made readable."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nemo_mm_align.core.atomic import write_json
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.schema.prompts import EncodedSequence, Encoder

SHOWN = 5
BINS = 10


@dataclass(frozen=True)
class Dropped:
    """An example that is not trained on, with a short reason (``too long``, ``image``, ``text``, or its kind's own).

    `length` is 0 where it could not be tokenised.
    """

    id: str
    reason: str
    length: int
    detail: str


@dataclass
class LengthPlan:
    """Lengths of the kept samples and the dropped examples.

    Attributes:
        lengths: of each kept sample its longest sequence, in tokens.
        answer_tokens, image_tokens, unknown_tokens: sums over all kept sequences.
        longest, longest_id: length and id of the longest kept sample.
    """

    max_length: int
    lengths: list[int] = field(default_factory=list)
    answer_tokens: int = 0
    image_tokens: int = 0
    unknown_tokens: int = 0
    longest: int = 0
    longest_id: str = ""
    dropped: list[Dropped] = field(default_factory=list)

    def keep(self, sample: Sample, encoder: Encoder) -> None:
        """Count a sample that is trained on."""
        length = max(len(sequence) for sequence in sample.sequences)
        if length > self.longest:
            self.longest, self.longest_id = length, sample.id
        self.lengths.append(length)
        unknown = encoder.tokenizer.unk_token_id
        for sequence in sample.sequences:
            self.answer_tokens += sequence.num_answer_tokens
            self.image_tokens += sequence.ids.count(encoder.image_token_id)
            self.unknown_tokens += 0 if unknown is None else sequence.ids.count(unknown)

    def histogram(self) -> list[tuple[int, int, int]]:
        """Return (from, to, samples) for lengths in equal steps, ends included."""
        if not self.lengths:
            return []
        counts, edges = np.histogram(self.lengths, bins=min(BINS, len(set(self.lengths))))
        starts = np.ceil(edges[:-1]).astype(int)
        ends = np.append(starts[1:] - 1, self.longest)
        return [(int(low), int(high), int(count)) for low, high, count in zip(starts, ends, counts, strict=True)]

    def summary(self) -> str:
        """Return the plan as a few lines for the log."""
        kept = len(self.lengths)
        lines = [
            f"{kept:,} examples kept, {len(self.dropped):,} dropped; at most {self.max_length} tokens are allowed."
        ]
        if kept:
            mean = sum(self.lengths) / kept
            lines.append(f"  length: mean {mean:.0f}, longest {self.longest} (id {self.longest_id})")
            lines.append(f"  {self.answer_tokens:,} answer tokens, {self.image_tokens:,} image tokens")
            lines += [f"  {low:>6} to {high:<6} {count:>8,}" for low, high, count in self.histogram()]
        lines += [f"  dropped {item.id}: {item.reason}: {item.detail}" for item in self.dropped[:SHOWN]]
        if len(self.dropped) > SHOWN:
            lines.append(f"  ... and {len(self.dropped) - SHOWN} more")
        return "\n".join(lines)

    def write(self, path: str | Path) -> None:
        """Write the plan as JSON: counts, histogram and every dropped example."""
        content = {
            "max_length": self.max_length,
            "kept": len(self.lengths),
            "longest": {"id": self.longest_id, "length": self.longest},
            "answer_tokens": self.answer_tokens,
            "image_tokens": self.image_tokens,
            "unknown_tokens": self.unknown_tokens,
            "histogram": self.histogram(),
            "dropped": [vars(item) for item in self.dropped],
        }
        write_json(path, content)


def show_loss_mask(sequence: EncodedSequence, encoder: Encoder) -> str:
    """Return a sequence as text with what is trained on in « » and each image's tokens as ``<image>*576``."""
    runs: list[tuple[bool, list[int]]] = []
    for token, trained in zip(sequence.ids, sequence.loss_mask, strict=True):
        if not runs or runs[-1][0] != trained:
            runs.append((trained, []))
        runs[-1][1].append(token)
    return "".join(f"«{_text(ids, encoder)}»" if trained else _text(ids, encoder) for trained, ids in runs)


def _text(ids: list[int], encoder: Encoder) -> str:
    pieces: list[str] = []
    words: list[int] = []
    position = 0
    while position < len(ids):
        if ids[position] == encoder.image_token_id:
            pieces += [encoder.tokenizer.decode(words), f"<image>*{encoder.tokens_per_image}"]
            words = []
            position += encoder.tokens_per_image
        else:
            words.append(ids[position])
            position += 1
    return "".join([*pieces, encoder.tokenizer.decode(words)])
