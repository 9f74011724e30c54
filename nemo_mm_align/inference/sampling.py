"""How the next token is chosen: greedy, or temperature, top-k and top-p with random numbers that belong to the answer.

The random number of a token is a hash of (seed, prompt id, sample index, token index). An answer therefore does not
depend on which prompts share its batch, on the batch size or on the layout, up to rounding of the logits.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.transfers import to_device


def stream_key(seed: int, prompt_id: str, sample: int) -> int:
    """Return what an answer's random numbers follow from, 64 bits."""
    name = f"{seed}\0{prompt_id}\0{sample}"
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def uniform_numbers(keys: Sequence[int], token_indices: Sequence[int]) -> Tensor:
    """Return a number in [0, 1) for each answer's token of the given index, float64 [B] on the host.

    Args:
        keys: of the answers' streams, see `stream_key`.
        token_indices: counted from each answer's beginning.
    """
    places = numpy.asarray(token_indices, dtype=numpy.uint64) + numpy.uint64(1)
    with numpy.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant: splitmix64 (Steele et al., 2014)
        mixed = numpy.asarray(keys, dtype=numpy.uint64) + places * numpy.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> numpy.uint64(31)
    return torch.from_numpy((mixed >> numpy.uint64(11)).astype(numpy.float64) * 2.0**-53)


@dataclass(frozen=True)
class SamplingKind:
    """What a step of decoding has to compute; rows for which it changes nothing may take part.

    Args:
        draws: some row samples.
        top_k: largest number of tokens that a row keeps, 0 where all rows keep all.
        top_p: some row keeps less than the whole probability.
    """

    draws: bool
    top_k: int
    top_p: bool


@dataclass(frozen=True)
class RowSampling:
    """Sampling settings of the rows of a batch, as tensors on the device.

    Args:
        kind: what has to be computed.
        greedy_B: rows that take the most probable token.
        temperature_B1: 1 for greedy rows.
        top_k_B1: the vocabulary's size at most; 0 keeps all.
        dropped_B1: 1 - top_p, the share of probability that is given up; -1 keeps all.
    """

    kind: SamplingKind
    greedy_B: Tensor
    temperature_B1: Tensor
    top_k_B1: Tensor
    dropped_B1: Tensor

    @classmethod
    def of(cls, rows: Sequence[SamplingSettings | None], device: torch.device | str = "cpu") -> RowSampling:
        """Bring settings to the device; None is a row whose token is of no interest."""
        asked = [settings or SamplingSettings(temperature=0) for settings in rows]
        drawn = [settings for settings in asked if not settings.greedy]
        kind = SamplingKind(
            draws=bool(drawn),
            top_k=max((settings.top_k for settings in drawn), default=0),
            top_p=any(settings.top_p < 1 for settings in drawn),
        )
        dropped = [1 - settings.top_p if settings.top_p < 1 else -1.0 for settings in asked]
        return cls(
            kind,
            to_device(torch.tensor([settings.greedy for settings in asked]), device),
            to_device(torch.tensor([[settings.temperature or 1.0] for settings in asked]), device),
            to_device(torch.tensor([[settings.top_k] for settings in asked]), device),
            to_device(torch.tensor(dropped, dtype=torch.float32).unsqueeze(1), device),
        )

    def copy_(self, other: RowSampling) -> None:
        """Take over the values of as many rows of the same kind, in the same memory."""
        for name in ("greedy_B", "temperature_B1", "top_k_B1", "dropped_B1"):
            getattr(self, name).copy_(getattr(other, name))


def filter_logits(logits_BV: Tensor, rows: RowSampling) -> Tensor:
    """Apply temperature, top-k, top-p in this order; what is filtered out becomes minus infinity.

    Equal to the warpers of transformers: of tokens that tie at the k-th place all are kept.
    """
    logits_BV = logits_BV / rows.temperature_B1
    most = min(rows.kind.top_k, logits_BV.shape[-1])
    if most:
        place_B1 = (rows.top_k_B1 - 1).clamp(0, most - 1)
        least_B1 = logits_BV.topk(most, dim=-1).values.gather(1, place_B1)
        removed_BV = (logits_BV < least_B1) & (rows.top_k_B1 > 0)
        logits_BV = logits_BV.masked_fill(removed_BV, float("-inf"))
    if rows.kind.top_p:
        ascending_BV, order_BV = logits_BV.sort(dim=-1)
        removed_BV = ascending_BV.softmax(dim=-1).cumsum(dim=-1) <= rows.dropped_B1
        removed_BV[:, -1] = False
        removed_BV = removed_BV.scatter(1, order_BV, removed_BV)
        logits_BV = logits_BV.masked_fill(removed_BV, float("-inf"))
    return logits_BV


def sample_tokens(logits_BV: Tensor, rows: RowSampling, uniform_B: Tensor | None = None) -> Tensor:
    """Return the next token of every row, int64 [B].

    Args:
        logits_BV: scores of the whole vocabulary; minus infinity is never chosen.
        rows: temperature, top-k, top-p of each.
        uniform_B: float64 numbers in [0, 1) on the device, see `uniform_numbers`; the token is the inverse of the
            cumulative distribution there. Greedy decoding needs none.
    """
    best_B = logits_BV.argmax(dim=-1)
    if not rows.kind.draws:
        return best_B
    assert uniform_B is not None
    probabilities_BV = filter_logits(logits_BV.float(), rows).softmax(dim=-1)
    cumulative_BV = probabilities_BV.double().cumsum(dim=-1)
    total_B1 = cumulative_BV[:, -1:]
    below_total_B1 = torch.nextafter(total_B1, torch.zeros_like(total_B1))
    target_B1 = torch.minimum(uniform_B.unsqueeze(1) * total_B1, below_total_B1)
    drawn_B = torch.searchsorted(cumulative_BV, target_B1, right=True).squeeze(1)
    return torch.where(rows.greedy_B, best_B, drawn_B)
