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

from nemo_mm_align.core.transfers import to_device
from nemo_mm_align.inference.sampling_settings import SamplingSettings


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
        top_k: no row that keeps some tokens only keeps more; 0 where all rows keep all.
        top_p: some row keeps less than the whole probability.
    """

    draws: bool
    top_k: int
    top_p: bool

    @classmethod
    def of(cls, rows: Sequence[SamplingSettings], vocabulary: int) -> SamplingKind:
        """What these rows take; `top_k` is rounded up to a power of two, so that there are few kinds."""
        drawn = [settings for settings in rows if not settings.greedy]
        most = max((settings.top_k for settings in drawn if settings.top_k < vocabulary), default=0)
        return cls(
            bool(drawn), min(1 << (most - 1).bit_length(), vocabulary) if most else 0, any(s.top_p < 1 for s in drawn)
        )

    def covers(self, other: SamplingKind) -> bool:
        """Whether what this kind computes is right for rows of the other."""
        return self.draws >= other.draws and self.top_k >= other.top_k and self.top_p >= other.top_p


@dataclass(frozen=True)
class RowSampling:
    """Sampling settings of the rows of a batch, as tensors on the device.

    Args:
        kind: what has to be computed.
        greedy_B: rows that take the most probable token.
        temperature_B1: 1 for greedy rows.
        top_k_B1: 0 keeps all.
        dropped_B1: 1 - top_p, the share of probability that is given up; -1 keeps all.
    """

    kind: SamplingKind
    greedy_B: Tensor
    temperature_B1: Tensor
    top_k_B1: Tensor
    dropped_B1: Tensor

    @classmethod
    def of(
        cls,
        rows: Sequence[SamplingSettings | None],
        vocabulary: int,
        device: torch.device | str = "cpu",
        kind: SamplingKind | None = None,
    ) -> RowSampling:
        """Bring settings to the device.

        Args:
            rows: None is a row whose token is of no interest.
            vocabulary: number of tokens; a row that keeps as many keeps all.
            kind: compute this, where it covers the rows.
        """
        asked = [settings or SamplingSettings(temperature=0) for settings in rows]
        own = SamplingKind.of(asked, vocabulary)

        def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
            return to_device(torch.tensor(values, dtype=dtype).unsqueeze(1), device)

        return cls(
            kind if kind is not None and kind.covers(own) else own,
            to_device(torch.tensor([settings.greedy for settings in asked]), device),
            column([settings.temperature or 1.0 for settings in asked], torch.float32),
            column([settings.top_k if settings.top_k < vocabulary else 0 for settings in asked], torch.int64),
            column([1 - settings.top_p if settings.top_p < 1 else -1.0 for settings in asked], torch.float32),
        )

    def copy_(self, other: RowSampling) -> None:
        """Take over the values of as many rows of the same kind, in the same memory."""
        for name in ("greedy_B", "temperature_B1", "top_k_B1", "dropped_B1"):
            getattr(self, name).copy_(getattr(other, name))


def filter_logits(logits_BV: Tensor, sampling: RowSampling) -> Tensor:
    """Apply temperature, top-k, top-p in this order; what is filtered out becomes minus infinity.

    Equal to the warpers of transformers: of tokens that tie at the k-th place all are kept.
    """
    logits_BV = logits_BV / sampling.temperature_B1
    most = min(sampling.kind.top_k, logits_BV.shape[-1])
    if most:
        place_B1 = (sampling.top_k_B1 - 1).clamp(0, most - 1)
        least_B1 = logits_BV.topk(most, dim=-1).values.gather(1, place_B1)
        removed_BV = (logits_BV < least_B1) & (sampling.top_k_B1 > 0)
        logits_BV = logits_BV.masked_fill(removed_BV, float("-inf"))
    if sampling.kind.top_p:
        ascending_BV, order_BV = logits_BV.sort(dim=-1)
        removed_BV = ascending_BV.softmax(dim=-1).cumsum(dim=-1) <= sampling.dropped_B1
        removed_BV[:, -1] = False
        removed_BV = removed_BV.scatter(1, order_BV, removed_BV)
        logits_BV = logits_BV.masked_fill(removed_BV, float("-inf"))
    return logits_BV


def sample_tokens(logits_BV: Tensor, sampling: RowSampling, uniform_B: Tensor | None = None) -> Tensor:
    """Return the next token of every row, int64 [B].

    Args:
        logits_BV: scores of the whole vocabulary; minus infinity is never chosen.
        sampling: temperature, top-k, top-p of each row.
        uniform_B: float64 numbers in [0, 1) on the device, see `uniform_numbers`; the token is the inverse of the
            cumulative distribution there. Greedy decoding needs none.
    """
    best_B = logits_BV.argmax(dim=-1)
    if not sampling.kind.draws:
        return best_B
    assert uniform_B is not None
    probabilities_BV = filter_logits(logits_BV.float(), sampling).softmax(dim=-1)
    cumulative_BV = probabilities_BV.double().cumsum(dim=-1)
    total_B1 = cumulative_BV[:, -1:]
    below_total_B1 = torch.nextafter(total_B1, torch.zeros_like(total_B1))
    target_B1 = torch.minimum(uniform_B.unsqueeze(1) * total_B1, below_total_B1)
    drawn_B = torch.searchsorted(cumulative_BV, target_B1, right=True).squeeze(1)
    drawn_B = drawn_B.clamp_max(
        logits_BV.shape[-1] - 1
    )  # logits that are no numbers must not become a token that is none
    return torch.where(sampling.greedy_B, best_B, drawn_B)
