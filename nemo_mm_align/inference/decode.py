"""Batched decoding with a KV cache: prompts of different lengths, images at prefill, rows that end at different steps.

Rows are padded on the left, so that every row's last prompt token stands in the same column; positions count from each
row's first token. A prompt is prefilled once, however many answers are sampled from it.

Shapes: P prompts, R answers (P x samples), B rows still decoded, S sequence, T all positions of the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from nemo_mm_align.inference.requests import EncodedPrompt
from nemo_mm_align.inference.sampling import RandomStreams, sample_tokens
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.stage import DecodingStage
from nemo_mm_align.model.llava import Llava

_COMPACT_BELOW = 0.75
"""Finished rows leave the cache once at most this share is alive: a copy costs about as much as a step."""


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
class GeneratedAnswer:
    """Token ids without the stop token. `finish_reason` is ``length`` where the limit cut the answer."""

    ids: list[int]
    finish_reason: Literal["stop", "length"]


@dataclass
class _Answers:
    """What has been generated; rows keep their place while the batch shrinks."""

    tokens_RS: Tensor
    stop_ids: Tensor
    rows_B: Tensor = field(init=False)
    lengths_R: Tensor = field(init=False)
    stopped_R: Tensor = field(init=False)

    def __post_init__(self) -> None:
        rows = self.tokens_RS.shape[0]
        self.rows_B = torch.arange(rows)
        self.lengths_R = torch.zeros(rows, dtype=torch.int64)
        self.stopped_R = torch.zeros(rows, dtype=torch.bool)

    def append(self, ids_B: Tensor, step: int) -> int:
        """Store each row's next token; return how many rows ended with it."""
        alive_B = ~self.stopped_R[self.rows_B]
        self.tokens_RS[self.rows_B, step] = ids_B
        ended_B = alive_B & torch.isin(ids_B, self.stop_ids)
        self.lengths_R[self.rows_B] += (alive_B & ~ended_B).long()
        self.stopped_R[self.rows_B] |= ended_B
        return int(ended_B.sum())

    def shrink(self) -> Tensor | None:
        """Drop ended rows where that pays; return the places kept, None where all stay."""
        alive_B = ~self.stopped_R[self.rows_B]
        if int(alive_B.sum()) > _COMPACT_BELOW * len(alive_B):
            return None
        kept = alive_B.nonzero().squeeze(1)
        self.rows_B = self.rows_B[kept]
        return kept

    def result(self, samples: int) -> list[list[GeneratedAnswer]]:
        """The answers, prompt by prompt."""
        lengths, stopped = self.lengths_R.tolist(), self.stopped_R.tolist()
        flat = [
            GeneratedAnswer(tokens[:length], "stop" if stop else "length")
            for tokens, length, stop in zip(self.tokens_RS.tolist(), lengths, stopped, strict=True)
        ]
        return [flat[start : start + samples] for start in range(0, len(flat), samples)]


@dataclass
class _Context:
    """Where every row stands: padding on its left and the columns that its queries may look at."""

    padding_B: Tensor
    visible_BT: Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int], total: int, device: torch.device) -> _Context:
        padding_P = max(lengths) - torch.tensor(lengths, device=device)
        columns = torch.arange(total, device=device)
        return cls(padding_P, columns >= padding_P.unsqueeze(1) if int(padding_P.max()) else None)

    def prefill(self, length: int) -> tuple[Tensor, Tensor | None]:
        """Positions [P, S] and mask [P, 1, S, S] of the prompts; None is plain causal."""
        columns = torch.arange(length, device=self.padding_B.device)
        positions_PS = (columns - self.padding_B.unsqueeze(1)).clamp_min(0)
        if self.visible_BT is None:
            return positions_PS, None
        causal_SS = columns.unsqueeze(1) >= columns
        # A padding position sees itself: a row of the softmax without any key would be NaN.
        own_SS = torch.eye(length, dtype=torch.bool, device=columns.device)
        return positions_PS, ((causal_SS & self.visible_BT[:, None, :length]) | own_SS).unsqueeze(1)

    def step(self, column: int) -> tuple[Tensor, Tensor | None]:
        """Positions [B, 1] and mask [B, 1, 1, T] of the token in `column`."""
        mask = None if self.visible_BT is None else self.visible_BT[:, None, None, : column + 1]
        return (column - self.padding_B).unsqueeze(1), mask

    def select(self, rows: Tensor) -> None:
        """Keep, drop or repeat rows."""
        self.padding_B = self.padding_B[rows]
        self.visible_BT = None if self.visible_BT is None else self.visible_BT[rows]


@contextmanager
def _evaluating(model: Llava) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def generate_batch(
    model: Llava,
    prompts: Sequence[EncodedPrompt],
    images: ImageBatch | None,
    settings: SamplingSettings,
    stop_ids: Sequence[int],
    on_ended: Callable[[int], object] = lambda answers: None,
) -> list[list[GeneratedAnswer]]:
    """Answer one batch; every rank of a model replica calls this with the same arguments.

    Args:
        model: this rank's pipeline stage, on its device.
        prompts: at least one.
        images: the prompts' images; read on the first stage only.
        settings: sampling settings.
        stop_ids: tokens that end an answer.
        on_ended: called with the number of answers that ended in a step.

    Returns:
        `settings.num_samples` answers per prompt, in the order of `prompts`. The image token is never generated.
    """
    samples, device = settings.num_samples, next(model.parameters()).device
    lengths = [len(prompt.ids) for prompt in prompts]
    start = max(lengths)
    streams = RandomStreams(settings.seed, ((prompt.id, sample) for prompt in prompts for sample in range(samples)))
    answers = _Answers(
        torch.zeros(len(prompts) * samples, settings.max_new_tokens, dtype=torch.int64), torch.tensor(list(stop_ids))
    )
    context = _Context.of(lengths, start + settings.max_new_tokens, device)
    with _evaluating(model):
        stage = DecodingStage(model, start + settings.max_new_tokens)
        logits_BV = _prefill(stage, prompts, images, context, samples)
        for step in range(settings.max_new_tokens):
            ids_B = stage.choose(logits_BV, len(answers.rows_B), _choice(model, settings, streams, step))
            on_ended(answers.append(ids_B.cpu(), step))
            kept = answers.shrink()
            if kept is not None:
                ids_B = ids_B[kept.to(device)]
                streams.select(kept)
            if len(ids_B) == 0 or step + 1 == settings.max_new_tokens:
                break
            if kept is not None:
                stage.cache.select_rows(kept.to(device))
                context.select(kept.to(device))
            positions_BS, mask = context.step(start + step)
            logits_BV = stage.forward(ids_B.unsqueeze(1), positions_BS, mask)
    on_ended(int((~answers.stopped_R).sum()))
    return answers.result(samples)


def _prefill(
    stage: DecodingStage,
    prompts: Sequence[EncodedPrompt],
    images: ImageBatch | None,
    context: _Context,
    samples: int,
) -> Tensor | None:
    """Compute the prompts once and repeat each for its samples; return the logits of the first answer token."""
    device, length = context.padding_B.device, max(len(prompt.ids) for prompt in prompts)
    ids_PS = torch.tensor([[0] * (length - len(prompt.ids)) + prompt.ids for prompt in prompts], device=device)
    positions_PS, mask = context.prefill(length)
    pixels_NCHW = index_K = None
    if images is not None and stage.model.pre_process:
        pixels_NCHW, index_K = images.pixels_NCHW.to(device), images.index_K.to(device)
    logits_PV = stage.forward(ids_PS, positions_PS, mask, pixels_NCHW, index_K)
    if samples == 1:
        return logits_PV
    rows = torch.arange(len(prompts), device=device).repeat_interleave(samples)
    stage.cache.select_rows(rows)
    context.select(rows)
    return None if logits_PV is None else logits_PV[rows]


def _choice(model: Llava, settings: SamplingSettings, streams: RandomStreams, step: int) -> Callable[[Tensor], Tensor]:
    def choose(logits_BV: Tensor) -> Tensor:
        image = torch.tensor([model.model_config.image_token_id], device=logits_BV.device)
        logits_BV = logits_BV.index_fill(1, image, float("-inf"))
        return sample_tokens(logits_BV, settings, None if settings.greedy else streams.uniform(step))

    return choose
