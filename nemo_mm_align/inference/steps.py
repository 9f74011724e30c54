"""One token after another for the rows of a batch: as calls, or as a recorded CUDA graph that is played again and again.

A decoding step of a 7B model is some 1,500 small kernels. Launched one by one they keep the host busy for 40 ms while the
GPU works for 5; played from a graph they cost the host next to nothing. A graph plays into the same memory each time, so
everything that changes from step to step (ids, positions, the visible columns, the place to write to) lies in tensors of
fixed size. Attention then reads a whole *window* of the cache, of which the mask shows what is there so far; when the window
is full, or rows have left, another graph is recorded.

Shapes: B rows, T columns of the window, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_mm_align.inference.sampling import RandomStreams, sample_tokens
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.stage import DecodingStage
from nemo_mm_align.transfers import to_device

logger = logging.getLogger(__name__)

_WINDOW = 256
"""Columns by which the window grows: a new graph takes as long as some 20 steps."""


@dataclass
class Columns:
    """Where every row stands: padding on its left and the columns that its queries may look at."""

    padding_B: Tensor
    visible_BT: Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int], total: int, device: torch.device) -> Columns:
        """Rows of these lengths, padded on the left to the longest, in a cache of `total` columns."""
        padding = [max(lengths) - length for length in lengths]
        padding_B = torch.tensor(padding, device=device)
        columns = torch.arange(total, device=device)
        return cls(padding_B, columns >= padding_B.unsqueeze(1) if any(padding) else None)

    def prefill(self, length: int) -> tuple[Tensor, Tensor | None]:
        """Positions [B, S] and mask [B, 1, S, S] of the prompts; None is plain causal."""
        columns = torch.arange(length, device=self.padding_B.device)
        positions_BS = (columns - self.padding_B.unsqueeze(1)).clamp_min(0)
        if self.visible_BT is None:
            return positions_BS, None
        causal_SS = columns.unsqueeze(1) >= columns
        # A padding position sees itself: a row of the softmax without any key would be NaN.
        own_SS = torch.eye(length, dtype=torch.bool, device=columns.device)
        return positions_BS, ((causal_SS & self.visible_BT[:, None, :length]) | own_SS).unsqueeze(1)

    def step(self, column: int) -> tuple[Tensor, Tensor | None]:
        """Positions [B, 1] and mask [B, 1, 1, T] of the token in `column`."""
        mask = None if self.visible_BT is None else self.visible_BT[:, None, None, : column + 1]
        return (column - self.padding_B).unsqueeze(1), mask

    def window(self, column: int, size: int) -> tuple[Tensor, Tensor]:
        """Positions [B, 1] and mask [B, 1, 1, `size`] of the token in `column`, nothing after it visible."""
        columns = torch.arange(size, device=self.padding_B.device)
        visible_BT = (columns >= self.padding_B.unsqueeze(1)) & (columns <= column)
        return (column - self.padding_B).unsqueeze(1), visible_BT[:, None, None, :]

    def select(self, rows: Tensor) -> None:
        """Keep, drop or repeat rows."""
        self.padding_B = self.padding_B[rows]
        self.visible_BT = None if self.visible_BT is None else self.visible_BT[rows]


@dataclass(frozen=True)
class Choice:
    """How the next ids follow from the logits; the image token is never chosen.

    Args:
        settings: sampling settings.
        streams: random numbers of the rows that are left.
        image_id: the image token, [1] on the device.
    """

    settings: SamplingSettings
    streams: RandomStreams
    image_id: Tensor

    def uniform(self, step: int) -> Tensor | None:
        """Random numbers of the answers' token number `step`, float64 [B] on the device; greedy decoding needs none."""
        return None if self.settings.greedy else to_device(self.streams.uniform(step), self.image_id.device)

    def __call__(self, logits_BV: Tensor, uniform_B: Tensor | None) -> Tensor:
        """Return the next ids, [B]."""
        logits_BV = logits_BV.index_fill(1, self.image_id, float("-inf"))
        return sample_tokens(logits_BV, self.settings, uniform_B)


class Steps:
    """Decoding steps as calls: the way that every layout and device knows.

    Args:
        stage: this rank's stage, its cache filled with the prompts.
        columns: where the rows stand.
        choice: of the next ids.
        start: column of the first new token.
    """

    compact_below = 0.75
    """Ended rows leave once at most this share is alive: a copy of the cache costs about as much as a step."""

    def __init__(self, stage: DecodingStage, columns: Columns, choice: Choice, start: int) -> None:
        self.stage, self.columns, self.choice, self.start = stage, columns, choice, start

    def first(self, logits_BV: Tensor | None) -> Tensor:
        """Return the ids that follow the prompts, [B]."""
        return self._choose(logits_BV, 0)

    def next(self, ids_B: Tensor, step: int) -> Tensor:
        """Return the answers' token number `step`, [B], given the one before; valid until the next call."""
        positions_B1, mask = self.columns.step(self.start + step - 1)
        logits_BV = self.stage.forward(ids_B.unsqueeze(1), positions_B1, mask)
        return self._choose(logits_BV, step)

    def select(self, rows: Tensor) -> None:
        """Go on with these rows alone; `rows` lies on the host."""
        there = to_device(rows, self.columns.padding_B.device)
        self.choice.streams.select(rows)
        self.stage.cache.select_rows(there)
        self.columns.select(there)

    def _choose(self, logits_BV: Tensor | None, step: int) -> Tensor:
        uniform_B = None if logits_BV is None else self.choice.uniform(step)
        return self.stage.choose(logits_BV, len(self.columns.padding_B), lambda whole: self.choice(whole, uniform_B))


class GraphedSteps(Steps):
    """The same steps within fixed memory, recorded as CUDA graphs; without a GPU they run in that memory as calls.

    For models on one rank: what graphs of several ranks exchange would have to be recorded on all of them at once.
    """

    compact_below = 0.5  # a new graph costs more than a copy of the cache

    def __init__(self, stage: DecodingStage, columns: Columns, choice: Choice, start: int) -> None:
        super().__init__(stage, columns, choice, start)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._end = 0  # the window's end; 0: nothing is recorded
        self._refused = False

    def next(self, ids_B: Tensor, step: int) -> Tensor:
        """As `Steps.next`."""
        if self._refused:
            return super().next(ids_B, step)
        column = self.start + step - 1
        if column >= self._end:
            self._make_window(column)
            self._load(ids_B, column)
            if ids_B.is_cuda and not self._record(ids_B, column):
                return super().next(ids_B, step)
        uniform_B = self.choice.uniform(step)
        if uniform_B is not None:
            self._uniform_B.copy_(uniform_B)
        if self._graph is None:
            self._play()
        else:
            self._graph.replay()
        self.stage.cache.advance(1)
        return self._ids_B1.squeeze(1)

    def select(self, rows: Tensor) -> None:
        """As `Steps.select`; the graph is of no use for fewer rows."""
        super().select(rows)
        self._graph, self._end = None, 0

    def _make_window(self, column: int) -> None:
        """Tensors that the coming steps play in, with room for `column` and some after it."""
        cache, rows, device = self.stage.cache, len(self.columns.padding_B), self.columns.padding_B.device
        self._graph, self._end = None, min(cache.max_length, (column // _WINDOW + 1) * _WINDOW)
        self._ids_B1 = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self._uniform_B = torch.zeros(rows, dtype=torch.float64, device=device)
        self._column_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self._positions_B1, self._mask_B11T = self.columns.window(column, self._end)

    def _load(self, ids_B: Tensor, column: int) -> None:
        """Set the window's tensors to the step that puts `ids_B` into `column`."""
        positions_B1, mask_B11T = self.columns.window(column, self._end)
        self._positions_B1.copy_(positions_B1)
        self._mask_B11T.copy_(mask_B11T)
        self._ids_B1.copy_(ids_B.unsqueeze(1))
        self._column_1.fill_(column)

    def _play(self) -> None:
        """One step in fixed memory; leaves everything ready for the next one."""
        self._mask_B11T.index_fill_(3, self._column_1, True)
        with self.stage.cache.window(self._column_1, self._end):
            logits_BV = self.stage.compute(self._ids_B1, self._positions_B1, self._mask_B11T)
        self._ids_B1.copy_(self.choice(logits_BV, self._uniform_B).unsqueeze(1))
        self._positions_B1 += 1
        self._column_1 += 1

    def _record(self, ids_B: Tensor, column: int) -> bool:
        """Record a step; where a kernel cannot be recorded, say so once and go on with calls."""
        ids_B = ids_B.clone()  # may be the ids of the graph before
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._play()  # workspaces and compiled kernels must be there before
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._play()
        except RuntimeError as error:
            logger.warning("decoding without CUDA graphs: %s", str(error).splitlines()[0])
            self._refused, self._graph = True, None
            return False
        self._load(ids_B, column)
        self._graph = graph
        return True
