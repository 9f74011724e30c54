"""The length plan: every example tokenised and checked before training; what is kept, what is dropped and why.

Nothing is cut. An example that is too long, has a missing image or a text that cannot be tokenised refuses the data,
unless the settings say that such examples are to be dropped.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.kinds import SampleKind
from nemo_mm_align.datasets.length_report import Dropped, LengthPlan
from nemo_mm_align.datasets.sample import Sample, SampleStore
from nemo_mm_align.schema.examples import Example
from nemo_mm_align.schema.image_hashes import ImageHashes
from nemo_mm_align.schema.images import verify_bytes
from nemo_mm_align.schema.prompts import Encoder

logger = logging.getLogger(__name__)


class PlanSettings(BaseModel):
    """What the plan refuses.

    Args:
        max_length: longest sequence in tokens, image tokens included; at most the model's own maximum.
        on_too_long: ``error`` refuses the data, ``drop`` leaves such examples out.
        on_fault: the same for missing or damaged images, texts that cannot be tokenised, and pairs whose answers are the
            same tokens.
        check_images: decode every image once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_length: int = Field(gt=0)
    on_too_long: Literal["error", "drop"] = "error"
    on_fault: Literal["error", "drop"] = "error"
    check_images: bool = True


def plan_lengths(
    examples: Sequence[Example],
    encoder: Encoder,
    settings: PlanSettings,
    kind: SampleKind,
    progress: bool = False,
    hashes: ImageHashes | None = None,
) -> tuple[SampleStore, LengthPlan]:
    """Tokenise all examples and decide which are trained on.

    Args:
        examples: with image paths that hold from the current directory (as `sources.read_examples` returns them).
        kind: what samples are made of them.
        progress: show a progress bar.
        hashes: of the images, and which of them an earlier run has checked; they are not decoded again.

    Returns:
        The kept samples in the order of the examples, as a sequence, and the plan.

    Raises:
        UserError: an example would be dropped although the settings say ``error``, or none is left.
    """
    broken = _broken_images(examples, hashes or ImageHashes(), progress) if settings.check_images else {}
    plan, samples = LengthPlan(settings.max_length), SampleStore()
    for example in tqdm(examples, "tokenising", disable=not progress):
        sample = _plan_one(example, encoder, settings, kind, broken)
        if isinstance(sample, Dropped):
            plan.dropped.append(sample)
        else:
            plan.keep(sample, encoder)
            samples.append(sample)
    _judge(plan, settings)
    return samples, plan


def _plan_one(
    example: Example, encoder: Encoder, settings: PlanSettings, kind: SampleKind, broken: dict[str, str]
) -> Sample | Dropped:
    fault = next((broken[path] for path in example.images if path in broken), None)
    if fault is not None:
        return Dropped(example.id, "image", 0, fault)
    try:
        sample = encode_sample(example, encoder, kind)
    except UserError as error:
        return Dropped(example.id, "text", 0, str(error))
    if (flaw := kind.flaw(sample)) is not None:
        reason, sentence = flaw
        return Dropped(example.id, reason, 0, sentence)
    length = max(len(sequence) for sequence in sample.sequences)
    if length > settings.max_length:
        images = len(sample.image_paths) * encoder.tokens_per_image
        detail = f"{length} tokens ({images} of them images), at most {settings.max_length}."
        return Dropped(example.id, "too long", length, detail)
    return sample


def encode_sample(example: Example, encoder: Encoder, kind: SampleKind) -> Sample:
    """Tokenise one example; raise `UserError` where the image tokens do not fit its images."""
    sample = kind.encode(example, encoder)
    expected = len(example.images) * encoder.tokens_per_image
    for sequence in (*sample.sequences, *sample.prior_sequences):
        found = sequence.ids.count(encoder.image_token_id)
        if found != expected:
            raise UserError(f"{found} image tokens for {len(example.images)} images, {expected} expected.")
    return sample


def _broken_images(examples: Sequence[Example], hashes: ImageHashes, progress: bool) -> dict[str, str]:
    """Return what is wrong with each image that does not decode; each file is read once, and hashed on the way."""

    def fault(path: str) -> str | None:
        try:
            hashes.of(Path(path), functools.partial(verify_bytes, path=path))
        except UserError as error:
            return str(error)
        return None

    paths = list(dict.fromkeys(path for example in examples for path in example.images))
    with ThreadPoolExecutor() as pool:  # Pillow lets other threads run while it decodes
        faults = list(tqdm(pool.map(fault, paths), "checking images", len(paths), disable=not progress))
    return {path: found for path, found in zip(paths, faults, strict=True) if found is not None}


def _judge(plan: LengthPlan, settings: PlanSettings) -> None:
    too_long = [item for item in plan.dropped if item.reason == "too long"]
    faults = len(plan.dropped) - len(too_long)
    remedies = []
    if too_long and settings.on_too_long == "error":
        longest = max(item.length for item in too_long)
        remedies.append(f"raise model.max_length (the longest has {longest} tokens) or set data.on_too_long=drop")
    if faults and settings.on_fault == "error":
        remedies.append("mend the records or set data.on_fault=drop")
    if remedies:
        raise UserError(f"{plan.summary()}\nRemedy: {'; '.join(remedies)}.")
    if not plan.lengths:
        raise UserError(f"{plan.summary()}\nNo example is left.")
    logger.log(logging.WARNING if plan.dropped else logging.INFO, "%s", plan.summary())
    if plan.unknown_tokens:
        logger.warning(
            "%d tokens are unknown to the tokenizer: check that it belongs to the model", plan.unknown_tokens
        )
