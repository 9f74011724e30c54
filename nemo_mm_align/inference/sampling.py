"""How the next token is chosen: greedy, or temperature, top-k and top-p with random numbers that belong to the answer.

The random number of a token is a hash of (seed, prompt id, sample index, token index). An answer therefore does not
depend on which prompts share its batch, on the batch size or on the layout, up to rounding of the logits.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy
import torch
from torch import Tensor

from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.transfers import to_device


class RandomStreams:
    """One stream of uniform random numbers per answer.

    Args:
        seed: of the run.
        answers: (prompt id, sample index) of every row.
    """

    def __init__(self, seed: int, answers: Iterable[tuple[str, int]]) -> None:
        names = (f"{seed}\0{prompt}\0{sample}" for prompt, sample in answers)
        digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
        self._keys_B = numpy.frombuffer(b"".join(digests), dtype="<u8")

    def uniform(self, token_index: int) -> Tensor:
        """Return one number in [0, 1) per row, float64 [B], for the answers' token number `token_index`."""
        with numpy.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant: splitmix64 (Steele et al., 2014)
            mixed = self._keys_B + numpy.uint64((token_index + 1) * 0x9E3779B97F4A7C15 % 2**64)
            mixed = (mixed ^ (mixed >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> numpy.uint64(31)
        return torch.from_numpy((mixed >> numpy.uint64(11)).astype(numpy.float64) * 2.0**-53)

    def select(self, rows: Tensor) -> None:
        """Keep only these rows, in this order."""
        self._keys_B = self._keys_B[rows.cpu().numpy()]


def filter_logits(logits_BV: Tensor, settings: SamplingSettings) -> Tensor:
    """Apply temperature, top-k, top-p in this order; what is filtered out becomes minus infinity.

    Equal to the warpers of transformers: of tokens that tie at the k-th place all are kept.
    """
    logits_BV = logits_BV / settings.temperature
    if 0 < settings.top_k < logits_BV.shape[-1]:
        least_B1 = logits_BV.topk(settings.top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))
    if settings.top_p < 1:
        ascending_BV, order_BV = logits_BV.sort(dim=-1)
        removed_BV = ascending_BV.softmax(dim=-1).cumsum(dim=-1) <= 1 - settings.top_p
        removed_BV[:, -1] = False
        removed_BV = removed_BV.scatter(1, order_BV, removed_BV)
        logits_BV = logits_BV.masked_fill(removed_BV, float("-inf"))
    return logits_BV


def sample_tokens(logits_BV: Tensor, settings: SamplingSettings, uniform_B: Tensor | None = None) -> Tensor:
    """Return the next token of every row, int64 [B].

    Args:
        logits_BV: scores of the whole vocabulary; minus infinity is never chosen.
        settings: temperature, top-k, top-p.
        uniform_B: float64 numbers in [0, 1), see `RandomStreams`; the token is the inverse of the cumulative
            distribution there. Greedy decoding needs none.
    """
    if settings.greedy:
        return logits_BV.argmax(dim=-1)
    assert uniform_B is not None
    probabilities_BV = filter_logits(logits_BV.float(), settings).softmax(dim=-1)
    cumulative_BV = probabilities_BV.double().cumsum(dim=-1)
    total_B1 = cumulative_BV[:, -1:]
    below_total_B1 = torch.nextafter(total_B1, torch.zeros_like(total_B1))
    uniform_B1 = to_device(uniform_B, total_B1.device).unsqueeze(1)
    target_B1 = torch.minimum(uniform_B1 * total_B1, below_total_B1)
    return torch.searchsorted(cumulative_BV, target_B1, right=True).squeeze(1)
