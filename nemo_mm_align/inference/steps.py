"""One token after another for the rows of a batch: as calls, or as a recorded CUDA graph that is played again and again.

A decoding step of a 7B model is some 1,500 small kernels. Launched one by one they keep the host busy for 40 ms while the
GPU works for 5; played from a graph they cost the host next to nothing. A graph plays into the same memory each time, so
everything that changes from step to step (ids, columns, random numbers, sampling settings) lies in tensors of fixed size.
Attention then reads a whole *window* of the cache, of which the mask shows what is there so far. When the window is full, or
rows or the kind of their sampling no longer fit, another graph is recorded; so that this is rare, rows come in round numbers.

A row's position is its column in the cache, as every prompt begins in column 0.

Shapes: B rows, R rows whose prompts were just computed, T columns of the window, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_mm_align.core.transfers import to_device
from nemo_mm_align.inference.rows import Row
from nemo_mm_align.inference.sampling import RowSampling, SamplingKind, sample_tokens, uniform_numbers
from nemo_mm_align.inference.stage import DecodingStage
from nemo_mm_align.inference.token_logprobs import Chosen, room_for, tell

logger = logging.getLogger(__name__)

_WINDOW = 256
"""Columns by which the window grows: a new graph takes as long as some 20 steps."""

Rows = Sequence[Row | None]
"""Rows by their slot in the cache; what stands in a slot without a row is computed, and nobody looks at it."""


class Steps:
    """Decoding steps as calls: the way that every layout and device knows.

    Args:
        stage: this rank's stage.
    """

    compact_below = 0.75
    """Rows move together once a step could do with this share of its slots: moving them costs about as much as a step."""

    def __init__(self, stage: DecodingStage) -> None:
        self.stage = stage
        self._vocabulary = stage.model.model_config.language.vocab_size
        self.device = next(stage.model.parameters()).device
        self._image_id = torch.tensor([stage.model.model_config.image_token_id], device=self.device)

    def width(self, rows: int) -> int:
        """Return how many slots a step computes that has so many rows."""
        return rows

    def first(self, logits_RV: Tensor | None, rows: Sequence[Row]) -> Chosen:
        """Return the first token of each of these rows, given what their prompts' last tokens come to."""
        sampling = self._sampling_of(rows)
        uniform_R = None if logits_RV is None else self._uniform(rows, sampling)
        told_RL = self._room_for(rows)
        ids_R = self.stage.choose(logits_RV, len(rows), lambda whole: self._choose(whole, sampling, uniform_R, told_RL))
        return Chosen(ids_R, self.stage.agree(told_RL))

    def load(self, rows: Rows, kind: SamplingKind | None = None) -> None:
        """Go on with these rows; to be called whenever a row has come to a slot.

        Args:
            kind: of sampling to compute, where that covers the rows.
        """
        self._sampling = self._sampling_of(rows, kind)
        self._told_BL = self._room_for(rows)
        self._ids_B = self._put([row.ids[-1] if row else 0 for row in rows])
        self._columns_B = self._put([row.column if row else 0 for row in rows])

    def next(self, rows: Rows) -> Chosen:
        """Return the next token of every slot; valid until the next call.

        Args:
            rows: as loaded; some may have gone since.
        """
        columns = {row.column for row in rows if row}
        end = max(columns) + 1
        level = len(columns) == 1
        logits_BV = self.stage.step(
            self._ids_B.unsqueeze(1),
            self._columns_B.unsqueeze(1),
            None if level else _visible(self._columns_B, end),
            end - 1 if level else self._columns_B,
            end,
        )
        uniform_B = None if logits_BV is None else self._uniform(rows, self._sampling)
        self._ids_B = self.stage.choose(
            logits_BV, len(rows), lambda whole: self._choose(whole, self._sampling, uniform_B, self._told_BL)
        )
        self._columns_B = (self._columns_B + 1).clamp_max(
            self.stage.cache.length - 1
        )  # a slot without row stays inside
        return Chosen(self._ids_B, self.stage.agree(self._told_BL))

    def _put(self, values: list[int]) -> Tensor:
        return to_device(torch.tensor(values), self.device)

    def _sampling_of(self, rows: Rows, kind: SamplingKind | None = None) -> RowSampling:
        settings = [row.request.sampling if row else None for row in rows]
        return RowSampling.of(settings, self._vocabulary, self.device, kind)

    def _uniform(self, rows: Rows, sampling: RowSampling) -> Tensor | None:
        """Random numbers of each row's next token, float64 [B] on the device; none where no row draws."""
        if not sampling.kind.draws:
            return None
        keys, places = [row.stream if row else 0 for row in rows], [len(row.ids) if row else 0 for row in rows]
        return to_device(uniform_numbers(keys, places), self.device)

    def _room_for(self, rows: Rows) -> Tensor | None:
        return room_for(rows, self._vocabulary, self.device)

    def _choose(
        self, logits_BV: Tensor, sampling: RowSampling, uniform_B: Tensor | None, told_BL: Tensor | None
    ) -> Tensor:
        """Return the next ids, [B], and write log-probabilities into `told_BL`; the image token is never one of them."""
        logits_BV = logits_BV.index_fill(1, self._image_id, float("-inf"))
        ids_B = sample_tokens(logits_BV, sampling, uniform_B)
        if told_BL is not None:
            tell(logits_BV, ids_B, told_BL)
        return ids_B


class GraphedSteps(Steps):
    """The same steps within fixed memory, recorded as CUDA graphs; without a GPU they run in that memory as calls.

    Attributes:
        windows: how many there have been, a graph each.

    Raises:
        ValueError: the model lies on several ranks. What their graphs exchange would have to be recorded on all at once.
    """

    compact_below = 0.5  # fewer slots take a new graph, which costs more than moving rows

    def __init__(self, stage: DecodingStage) -> None:
        super().__init__(stage)
        if not stage.is_whole:
            raise ValueError("CUDA graphs are for a model on one rank")
        self._graph: torch.cuda.CUDAGraph | None = None
        self._end = 0  # the window's end; 0: there is none
        self._refused = False
        self.windows = 0

    def width(self, rows: int) -> int:
        """Powers of two, and multiples of eight: one graph for several numbers of rows."""
        rounded = 1 << (rows - 1).bit_length() if 0 < rows < 8 else -(-rows // 8) * 8
        return min(rounded, self.stage.slots)

    def load(self, rows: Rows, kind: SamplingKind | None = None) -> None:
        """As `Steps.load`; the window stays where as many slots, and all that the rows take, fit into it."""
        if self._end == 0:
            super().load(rows, kind)
            return
        ids_B, columns_B, sampling, told_BL = self._ids_B, self._columns_B, self._sampling, self._told_BL
        super().load(rows, sampling.kind)
        column = max((row.column for row in rows if row), default=0)
        same = len(ids_B) == len(rows) and sampling.kind == self._sampling.kind and _tells(told_BL, self._told_BL)
        if same and self._window(column) * 2 > self._end:
            ids_B.copy_(self._ids_B)
            columns_B.copy_(self._columns_B)
            sampling.copy_(self._sampling)
            self._ids_B, self._columns_B, self._sampling, self._told_BL = ids_B, columns_B, sampling, told_BL
        else:
            self._graph, self._end = None, 0

    def next(self, rows: Rows) -> Chosen:
        """As `Steps.next`."""
        column = max(row.column for row in rows if row)
        if column >= self._end and not self._refused:
            self._make_window(rows, column)
        if self._refused:
            return super().next(rows)
        uniform_B = self._uniform(rows, self._sampling)
        if uniform_B is not None:
            self._uniform_B.copy_(uniform_B)
        if self._graph is None:
            self._play()
        else:
            self._graph.replay()
        return Chosen(self._ids_B, self._told_BL)

    def _window(self, column: int) -> int:
        """End of the window that has room for `column` and some after it."""
        return min(self.stage.cache.length, (column // _WINDOW + 1) * _WINDOW)

    def _make_window(self, rows: Rows, column: int) -> None:
        """Take new memory for the coming steps, and record one there."""
        self._graph, self._end = None, 0
        self.load(rows, self._sampling.kind)
        self._end = self._window(column)
        self._uniform_B = torch.zeros(len(rows), dtype=torch.float64, device=self.device)
        self.windows += 1
        if self._ids_B.is_cuda:
            self._graph = self._record()
            self.load(rows)
            if self._refused:
                self._end = 0

    def _play(self) -> None:
        """One step in fixed memory; leaves everything ready for the next one."""
        mask = _visible(self._columns_B, self._end)
        ids_B1, positions_B1 = self._ids_B.unsqueeze(1), self._columns_B.unsqueeze(1)
        logits_BV = self.stage.step(ids_B1, positions_B1, mask, self._columns_B, self._end)
        assert logits_BV is not None
        self._ids_B.copy_(self._choose(logits_BV, self._sampling, self._uniform_B, self._told_BL))
        self._columns_B.add_(1).clamp_(max=self._end - 1)

    def _record(self) -> torch.cuda.CUDAGraph | None:
        """Record a step, which leaves ids and columns astray; None where that cannot be.

        A kernel that cannot be recorded ends the recording for good; without memory for a graph this window does without.
        """
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._play()  # workspaces and compiled kernels must be there before
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph, capture_error_mode="thread_local"
            ):  # other threads may use the device meanwhile
                self._play()
        except torch.OutOfMemoryError as error:
            logger.warning("some steps of decoding go without a CUDA graph: %s", str(error).splitlines()[0])
            return None
        except RuntimeError as error:
            logger.warning("decoding without CUDA graphs: %s", str(error).splitlines()[0])
            self._refused = True
            return None
        return graph


def _tells(there_BL: Tensor | None, asked_BL: Tensor | None) -> bool:
    """Whether what is there has room for what is asked; what nobody asks for any more goes with the window."""
    return asked_BL is None or (there_BL is not None and there_BL.shape[1] >= asked_BL.shape[1])


def _visible(columns_B: Tensor, end: int) -> Tensor:
    """Mask [B, 1, 1, T] of the first `end` columns: each row sees itself and what stands before it."""
    return (torch.arange(end, device=columns_B.device) <= columns_B.unsqueeze(1))[:, None, None, :]
