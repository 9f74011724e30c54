"""Decoding as a session: answers join (`admit`), go on together (`step`) and leave (`retire`), each with settings of its own.

Every rank of a model replica holds a session and makes the same calls with the same arguments: one rank chooses the tokens,
all of them learn what they are, and the rest follows from these. Where one rank alone knows what is asked, see
`LedSession`.

An answer depends on its request alone, up to rounding: not on what else is in the batch, nor on when it joined.

Shapes: B slots, P prompts, S sequence, R rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from nemo_mm_align.inference.rows import Decode, DecodingRequest, GeneratedAnswer, Progress, Row
from nemo_mm_align.inference.stage import DecodingStage
from nemo_mm_align.inference.steps import GraphedSteps, Steps
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.transfers import to_device


@dataclass(frozen=True)
class ImageBatch:
    """Images of a batch of prompts, each once.

    Args:
        pixels_NCHW: normalised, float32.
        index_K: for each occurrence, prompt by prompt, its place in `pixels_NCHW`.
    """

    pixels_NCHW: Tensor
    index_K: Tensor


@dataclass(frozen=True)
class _Admitted:
    """Prompts that are computed together, with the rows that answer them and the prompt that each of these answers."""

    requests: Sequence[DecodingRequest]
    rows: Sequence[tuple[Row, int]]
    images: ImageBatch | None


class DecodingSession:
    """Answers on their way, in slots of a cache of fixed size; a context manager, within which the model evaluates.

    Args:
        model: this rank's pipeline stage, on its device, built without sequence parallelism.
        slots: answers at a time.
        length: positions of each, the prompt included.
        decode: token ids to text as it stands, not stripped; needed for requests with stop texts.
        graphs: step from CUDA graphs; ``None`` = where the model lies on one GPU.
    """

    def __init__(
        self, model: Llava, slots: int, length: int, decode: Decode | None = None, graphs: bool | None = None
    ) -> None:
        self._model, self._decode = model, decode
        self._stage = DecodingStage(model, slots, length)
        on_gpu = next(model.parameters()).is_cuda
        kind = GraphedSteps if ((on_gpu and self._stage.is_whole) if graphs is None else graphs) else Steps
        self._steps = kind(self._stage)
        self._slots: list[Row | None] = []
        self._waiting: deque[_Admitted] = deque()
        self._rows: dict[int, Row] = {}
        self._count = 0
        self._changed = False

    def __enter__(self) -> Self:
        self._training = self._model.training
        self._model.eval()
        return self

    def __exit__(self, *error: object) -> None:
        self._model.train(self._training)

    @property
    def room(self) -> int:
        """How many more rows can be admitted now."""
        return self._stage.cache.slots - sum(row.finish_reason is None for row in self._rows.values())

    @property
    def busy(self) -> bool:
        """Whether some answer has not ended."""
        return any(row.finish_reason is None for row in self._rows.values())

    def admit(self, requests: Sequence[DecodingRequest], images: ImageBatch | None = None) -> list[int]:
        """Take requests in; their prompts are computed together by the next step that has none before them.

        Args:
            requests: at least one.
            images: the prompts' images; read on the first stage only.

        Returns:
            A number for each answer, request by request: what `step` and `retire` know it by.

        Raises:
            ValueError: there are not as many slots, or a request is longer than a slot.
        """
        answers = sum(request.sampling.num_samples for request in requests)
        if not 0 < answers <= self.room:
            raise ValueError(f"{answers} answers asked for, and room for {self.room}")
        longest = max(request.length for request in requests)
        if longest > self._stage.cache.length:
            raise ValueError(f"a request of {longest} positions, and room for {self._stage.cache.length} each")
        if self._decode is None and any(request.sampling.stop for request in requests):
            raise ValueError("stop texts take a session that can decode")
        rows = []
        for prompt, request in enumerate(requests):
            for sample in range(request.sampling.num_samples):
                rows.append((Row(self._count, request, sample), prompt))
                self._count += 1
        self._rows.update({row.number: row for row, _ in rows})
        self._waiting.append(_Admitted(requests, rows, images))
        return [row.number for row, _ in rows]

    def retire(self, row: int) -> GeneratedAnswer:
        """Forget an answer and return what there is of it; its slot is free, if it was not before.

        Raises:
            KeyError: there is no such row, or it has been retired.
        """
        found = self._rows.pop(row)
        found.finish_reason = found.finish_reason or "abort"
        self._slots = [None if other is found else other for other in self._slots]
        return found.answer()

    @torch.inference_mode()
    def step(self) -> list[Progress]:
        """Compute what was admitted first, or else one more token of every row; return what has become of them.

        Nothing is returned where no answer is on its way.
        """
        if self._waiting:
            return self._prefill(self._waiting.popleft())
        self._compact()
        alive = [row for row in self._slots if row]
        if not alive:
            return []
        if self._changed:
            self._steps.load(self._slots)
            self._changed = False
        tokens = self._steps.next(self._slots).tolist()
        return self._append([(row, token) for row, token in zip(self._slots, tokens, strict=True) if row])

    def _append(self, tokens: Sequence[tuple[Row, int]]) -> list[Progress]:
        progress = [row.append(token, self._decode) for row, token in tokens]
        self._slots = [None if row is None or row.finish_reason else row for row in self._slots]
        return progress

    def _prefill(self, admitted: _Admitted) -> list[Progress]:
        """Compute prompts into free slots; return the first token of each answer that has not been given up since."""
        wanted = [(row, prompt) for row, prompt in admitted.rows if row.finish_reason is None]
        if not wanted:
            return []
        rows, prompts = zip(*wanted, strict=True)
        free = [slot for slot, row in enumerate(self._slots) if row is None]
        free += range(len(self._slots), self._stage.cache.slots)
        taken = free[: len(rows)]
        self._slots += [None] * (max(taken) + 1 - len(self._slots))
        for slot, row in zip(taken, rows, strict=True):
            self._slots[slot] = row
        self._changed = True
        device = self._steps.device
        lengths = [len(request.prompt.ids) for request in admitted.requests]
        ids = [request.prompt.ids + [0] * (max(lengths) - len(request.prompt.ids)) for request in admitted.requests]
        pixels_NCHW = index_K = None
        if admitted.images is not None and self._model.pre_process:
            pixels_NCHW, index_K = admitted.images.pixels_NCHW.to(device), admitted.images.index_K.to(device)
        logits_RV = self._stage.prefill(
            to_device(torch.tensor(ids), device),
            to_device(torch.tensor(lengths) - 1, device),
            to_device(torch.tensor(taken), device),
            to_device(torch.tensor(prompts), device),
            pixels_NCHW,
            index_K,
        )
        tokens = self._steps.first(logits_RV, rows).tolist()
        return self._append(list(zip(rows, tokens, strict=True)))

    def _compact(self) -> None:
        """Move rows to the first slots once few of the slots are taken, so that a step computes few."""
        taken = [slot for slot, row in enumerate(self._slots) if row]
        width = len(taken)
        if width == len(self._slots) or width > self._steps.compact_below * len(self._slots):
            return
        holes = [slot for slot in range(width) if self._slots[slot] is None]
        movers = taken[width - len(holes) :]
        if holes:
            length = max(row.column for row in (self._slots[slot] for slot in movers) if row)
            device = self._steps.device
            self._stage.cache.move(
                to_device(torch.tensor(movers), device), to_device(torch.tensor(holes), device), length
            )
            for source, target in zip(movers, holes, strict=True):
                self._slots[target] = self._slots[source]
        self._slots = self._slots[:width]
        self._changed = True
