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
from nemo_mm_align.inference.sampling import RandomStreams
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.stage import DecodingStage
from nemo_mm_align.inference.steps import Choice, Columns, GraphedSteps, Steps
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

    def shrink(self, below: float) -> Tensor | None:
        """Drop ended rows once at most this share is alive; return the places kept, None where all stay."""
        alive_B = ~self.stopped_R[self.rows_B]
        if int(alive_B.sum()) > below * len(alive_B):
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
    graphs: bool | None = None,
) -> list[list[GeneratedAnswer]]:
    """Answer one batch; every rank of a model replica calls this with the same arguments.

    Args:
        model: this rank's pipeline stage, on its device.
        prompts: at least one.
        images: the prompts' images; read on the first stage only.
        settings: sampling settings.
        stop_ids: tokens that end an answer.
        on_ended: called with the number of answers that ended in a step.
        graphs: decode from CUDA graphs; ``None`` = where the model lies on one GPU.

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
    columns = Columns.of(lengths, start + settings.max_new_tokens, device)
    choice = Choice(settings, streams, torch.tensor([model.model_config.image_token_id], device=device))
    with _evaluating(model):
        stage = DecodingStage(model, start + settings.max_new_tokens)
        logits_BV = _prefill(stage, prompts, images, columns, samples)
        kind = GraphedSteps if (stage.can_be_graphed if graphs is None else graphs) else Steps
        steps = kind(stage, columns, choice, start)
        ids_B = steps.first(logits_BV)
        for step in range(1, settings.max_new_tokens + 1):
            on_ended(answers.append(ids_B.cpu(), step - 1))
            kept = answers.shrink(steps.compact_below)
            if len(answers.rows_B) == 0 or step == settings.max_new_tokens:
                break
            if kept is not None:
                ids_B = ids_B[to_device(kept, device)]
                steps.select(kept)
            ids_B = steps.next(ids_B, step)
    on_ended(int((~answers.stopped_R).sum()))
    return answers.result(samples)


def _prefill(
    stage: DecodingStage,
    prompts: Sequence[EncodedPrompt],
    images: ImageBatch | None,
    columns: Columns,
    samples: int,
) -> Tensor | None:
    """Compute the prompts once and repeat each for its samples; return the logits of the first answer token."""
    device, length = columns.padding_B.device, max(len(prompt.ids) for prompt in prompts)
    ids_PS = torch.tensor([[0] * (length - len(prompt.ids)) + prompt.ids for prompt in prompts], device=device)
    positions_PS, mask = columns.prefill(length)
    pixels_NCHW = index_K = None
    if images is not None and stage.model.pre_process:
        pixels_NCHW, index_K = images.pixels_NCHW.to(device), images.index_K.to(device)
    logits_PV = stage.forward(ids_PS, positions_PS, mask, pixels_NCHW, index_K)
    if samples == 1:
        return logits_PV
    rows = torch.arange(len(prompts), device=device).repeat_interleave(samples)
    stage.cache.select_rows(rows)
    columns.select(rows)
    return None if logits_PV is None else logits_PV[rows]
