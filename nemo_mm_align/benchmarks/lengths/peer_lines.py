"""The peers with their options, line by line; nothing of the engine is imported, whose memory would count as theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.benchmarks.agreed import OPTIM
from nemo_mm_align.benchmarks.lengths.runnable import Runnable
from nemo_mm_align.benchmarks.lengths.transformers_answers import TransformersAnswers
from nemo_mm_align.benchmarks.lengths.trl import FP32, Inputs, Numbers, TrlTrainer, real_share
from nemo_mm_align.benchmarks.lengths.work import Work

AUTOCAST, WHOLLY_BF16 = Numbers(autocast=True), Numbers(weights=torch.bfloat16)
Peer = TrlTrainer | TransformersAnswers


def numbers_of(precision: str) -> dict[str, Numbers]:
    """How peers compute in a precision, by what the table calls it."""
    return {"": FP32} if precision == "fp32" else {"": AUTOCAST, ", weights in bf16": WHOLLY_BF16}


def peers_of(work: Work, scratch: Path) -> dict[str, Callable[[], Peer]]:
    """What builds each peer, by its name: none where adapters are trained."""
    if work.adapters is not None:
        return {}
    found: dict[str, Callable[[], Peer]] = {}
    for ending, numbers in numbers_of(work.precision).items():
        policy = work.folder / "policy"
        found[f"TRL{ending}"] = partial(
            TrlTrainer, policy, work.reference, work.records, OPTIM, work.loss, scratch, numbers
        )
        if not work.pairs:
            found[f"transformers{ending}"] = partial(
                TransformersAnswers, policy, work.samples, work.pixels_NCHW, OPTIM, numbers
            )
    return found


def peer_lines(name: str, peer: Peer, size: int) -> Iterator[tuple[str, Runnable]]:
    """Yield a peer's lines with micro batches of a size: as drawn, by length, and with the reference computed before."""
    yield name, _of_peer(peer, peer.micro_batches(size), rival=True)
    sorted_batches = peer.micro_batches(size, by_length=True)
    yield f"{name}, grouped by length", _of_peer(peer, sorted_batches, rival=True)
    if isinstance(peer, TrlTrainer) and peer.pairs:
        filled = peer.with_reference(sorted_batches)
        yield f"{name}, grouped by length, precomputed reference (refused)", _of_peer(peer, filled, rival=False)


def _of_peer(peer: Peer, batches: Sequence[Inputs], rival: bool) -> Runnable:
    masks: list[Any] = [batch["attention_mask"] for batch in batches]
    return Runnable(
        partial(peer.loss, batches),
        partial(peer.step, batches),
        real_share(batches),
        sum(mask.numel() for mask in masks),
        rival,
    )
