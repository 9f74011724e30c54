"""The length plan: every example tokenised and checked before training; what is kept, what is dropped and why.

Nothing is cut. An example that is too long, has a missing image or text that cannot be tokenised refuses the data, unless
the settings say that such examples are to be dropped.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.errors import UserError
from nemo_mm_align.images import verify_image
from nemo_mm_align.prompts import EncodedSequence, Encoder
from nemo_mm_align.records import PreferenceExample, TrainingExample

logger = logging.getLogger(__name__)

SHOWN = 5
BINS = 10


class PlanSettings(BaseModel):
    """What the plan refuses.

    Args:
        max_length: longest sequence in tokens, image tokens included; at most the model's own maximum.
        on_too_long: ``error`` refuses the data, ``drop`` leaves such examples out.
        on_fault: the same for missing or damaged images and texts that cannot be tokenised.
        check_images: decode every image once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_length: int = Field(gt=0)
    on_too_long: Literal["error", "drop"] = "error"
    on_fault: Literal["error", "drop"] = "error"
    check_images: bool = True


@dataclass(frozen=True)
class Dropped:
    """An example that is not trained on. `length` is 0 where it could not be tokenised."""

    id: str
    reason: Literal["too long", "image", "text"]
    length: int
    detail: str


@dataclass
class LengthPlan:
    """Lengths of the kept samples and the dropped examples.

    Attributes:
        lengths: of each kept sample its longest sequence, in tokens.
        answer_tokens, image_tokens, unknown_tokens: sums over all kept sequences.
    """

    max_length: int
    lengths: list[int] = field(default_factory=list)
    answer_tokens: int = 0
    image_tokens: int = 0
    unknown_tokens: int = 0
    longest_id: str = ""
    dropped: list[Dropped] = field(default_factory=list)

    def keep(self, sample: Sample, encoder: Encoder) -> None:
        """Count a sample that is trained on."""
        length = max(len(sequence) for sequence in sample.sequences)
        if length > max(self.lengths, default=0):
            self.longest_id = sample.id
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
        ends = np.append(starts[1:] - 1, max(self.lengths))
        return [(int(low), int(high), int(count)) for low, high, count in zip(starts, ends, counts, strict=True)]

    def summary(self) -> str:
        """Return the plan as a few lines for the log."""
        kept = len(self.lengths)
        lines = [
            f"{kept:,} examples kept, {len(self.dropped):,} dropped; at most {self.max_length} tokens are allowed."
        ]
        if kept:
            mean, longest = sum(self.lengths) / kept, max(self.lengths)
            lines.append(f"  length: mean {mean:.0f}, longest {longest} (id {self.longest_id})")
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
            "longest": {"id": self.longest_id, "length": max(self.lengths, default=0)},
            "answer_tokens": self.answer_tokens,
            "image_tokens": self.image_tokens,
            "unknown_tokens": self.unknown_tokens,
            "histogram": self.histogram(),
            "dropped": [vars(item) for item in self.dropped],
        }
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)


def plan_lengths(
    examples: Sequence[TrainingExample | PreferenceExample],
    encoder: Encoder,
    settings: PlanSettings,
    progress: bool = False,
) -> tuple[list[Sample], LengthPlan]:
    """Tokenise all examples and decide which are trained on.

    Args:
        examples: with image paths that hold from the current directory (as `sources.read_examples` returns them).
        progress: show a progress bar.

    Returns:
        The kept samples in the order of the examples, and the plan.

    Raises:
        UserError: an example would be dropped although the settings say ``error``, or none is left.
    """
    broken = _broken_images(examples, progress) if settings.check_images else {}
    plan, samples = LengthPlan(settings.max_length), []
    for example in tqdm(examples, "tokenising", disable=not progress):
        sample = _plan_one(example, encoder, settings, broken)
        if isinstance(sample, Dropped):
            plan.dropped.append(sample)
        else:
            plan.keep(sample, encoder)
            samples.append(sample)
    _judge(plan, settings)
    return samples, plan


def _plan_one(
    example: TrainingExample | PreferenceExample, encoder: Encoder, settings: PlanSettings, broken: dict[str, str]
) -> Sample | Dropped:
    fault = next((broken[path] for path in example.images if path in broken), None)
    if fault is not None:
        return Dropped(example.id, "image", 0, fault)
    try:
        sample = encode_sample(example, encoder)
    except UserError as error:
        return Dropped(example.id, "text", 0, str(error))
    length = max(len(sequence) for sequence in sample.sequences)
    if length > settings.max_length:
        images = len(sample.image_paths) * encoder.tokens_per_image
        detail = f"{length} tokens ({images} of them images), at most {settings.max_length}."
        return Dropped(example.id, "too long", length, detail)
    return sample


def encode_sample(example: TrainingExample | PreferenceExample, encoder: Encoder) -> Sample:
    """Tokenise one example; raise `UserError` where the image tokens do not fit its images."""
    sequences = encoder.encode(example)
    expected = len(example.images) * encoder.tokens_per_image
    for sequence in sequences:
        found = sequence.ids.count(encoder.image_token_id)
        if found != expected:
            raise UserError(f"{found} image tokens for {len(example.images)} images, {expected} expected.")
    reference = None
    if isinstance(example, PreferenceExample):
        log_probs = (example.reference_chosen_log_prob, example.reference_rejected_log_prob)
        reference = [value for value in log_probs if value is not None]
    paths = [Path(path) for path in example.images]
    return Sample(example.id, paths, sequences, reference if reference and len(reference) == len(sequences) else None)


def _broken_images(examples: Sequence[TrainingExample | PreferenceExample], progress: bool) -> dict[str, str]:
    """Return what is wrong with each image that does not decode; each file is read once."""
    paths = list(dict.fromkeys(path for example in examples for path in example.images))
    with ThreadPoolExecutor() as pool:  # Pillow lets other threads run while it decodes
        faults = list(tqdm(pool.map(_image_fault, paths), "checking images", len(paths), disable=not progress))
    return {path: fault for path, fault in zip(paths, faults, strict=True) if fault is not None}


def _image_fault(path: str) -> str | None:
    try:
        verify_image(path)
    except UserError as error:
        return str(error)
    return None


def _judge(plan: LengthPlan, settings: PlanSettings) -> None:
    too_long = [item for item in plan.dropped if item.reason == "too long"]
    faults = len(plan.dropped) - len(too_long)
    remedies = []
    if too_long and settings.on_too_long == "error":
        longest = max(item.length for item in too_long)
        remedies.append(f"raise max_length (the longest has {longest} tokens) or set on_too_long=drop")
    if faults and settings.on_fault == "error":
        remedies.append("mend the records or set on_fault=drop")
    if remedies:
        raise UserError(f"{plan.summary()}\nRemedy: {'; '.join(remedies)}.")
    if not plan.lengths:
        raise UserError(f"{plan.summary()}\nNo example is left.")
    logger.log(logging.WARNING if plan.dropped else logging.INFO, "%s", plan.summary())
    if plan.unknown_tokens:
        logger.warning(
            "%d tokens are unknown to the tokenizer: check that it belongs to the model", plan.unknown_tokens
        )


def batch_length(samples: Sequence[Sample], multiple: int = 1, shared_prefix: bool = False) -> int:
    """Return the one row length of a global batch: its longest row, rounded up to a multiple.

    Args:
        samples: of the global batch, over all data-parallel ranks and micro batches.
        multiple: of the row length, for example the tensor-parallel size with sequence parallelism, or 16 for FP8.
        shared_prefix: chosen and rejected lie in one row that holds their prompt once.
    """
    longest = max(length for sample in samples for length in sample.row_lengths(shared_prefix))
    return -(-longest // multiple) * multiple


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
