"""Log-probabilities of chosen tokens: one block of numbers per step, as it lies on the device and travels between ranks.

Shapes: B rows, V vocabulary, L = 1 + 2 K: the chosen token's, then those of the K likeliest tokens, then these tokens' ids,
which float64 holds exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_mm_align.inference.rows import Row, TokenLogprobs


def likeliest(rows: Sequence[Row | None], vocabulary: int) -> int | None:
    """Return K for these rows, a power of two where it is more than none, so that there are few kinds; None: nobody asks."""
    asked = [row.request.top_logprobs for row in rows if row is not None and row.request.top_logprobs is not None]
    if not asked:
        return None
    most = max(asked)
    return min(1 << (most - 1).bit_length(), vocabulary) if most else 0


def room_for(rows: Sequence[Row | None], vocabulary: int, device: torch.device) -> Tensor | None:
    """Return memory for what these rows ask for, float64 [B, L]; None where nobody asks."""
    most = likeliest(rows, vocabulary)
    return None if most is None else torch.zeros(len(rows), 1 + 2 * most, dtype=torch.float64, device=device)


def tell(logits_BV: Tensor, ids_B: Tensor, told_BL: Tensor) -> None:
    """Write natural log-probabilities of `ids_B` and of the likeliest tokens, in the order of likelihood.

    Args:
        logits_BV: the model's own; minus infinity has no part in the distribution.
    """
    wide = torch.promote_types(logits_BV.dtype, torch.float32)
    logprobs_BV = logits_BV.log_softmax(dim=-1, dtype=wide)
    told_BL[:, :1] = logprobs_BV.gather(1, ids_B.unsqueeze(1))
    most = told_BL.shape[1] // 2
    if most:
        top = logprobs_BV.topk(most, dim=-1)
        told_BL[:, 1 : 1 + most] = top.values
        told_BL[:, 1 + most :] = top.indices


@dataclass(frozen=True)
class Chosen:
    """The next token of every row, on the device.

    Args:
        ids_B: int64.
        told_BL: None where nobody asked.
    """

    ids_B: Tensor
    told_BL: Tensor | None = None

    def tokens(self, rows: Sequence[Row | None]) -> Iterator[tuple[int, TokenLogprobs | None]]:
        """Yield each row's token, with log-probabilities where it asks for them."""
        told = None if self.told_BL is None else self.told_BL.tolist()
        for place, (row, token) in enumerate(zip(rows, self.ids_B.tolist(), strict=True)):
            asked = None if row is None else row.request.top_logprobs
            yield token, None if told is None or asked is None else _read(token, told[place], asked)


def _read(token: int, told: Sequence[float], asked: int) -> TokenLogprobs:
    most = len(told) // 2
    return TokenLogprobs(token, told[0], tuple((int(told[1 + most + k]), told[1 + k]) for k in range(asked)))
