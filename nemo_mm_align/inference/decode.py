"""One batch of prompts, answered to the last of its answers."""

from __future__ import annotations

from collections.abc import Sequence

from nemo_mm_align.inference.growing_text import Decode
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.requests import EncodedPrompt
from nemo_mm_align.inference.rows import DecodingRequest, GeneratedAnswer
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.session import DecodingSession
from nemo_mm_align.model.llava import Llava


def generate_batch(
    model: Llava,
    prompts: Sequence[EncodedPrompt],
    images: ImageBatch | None,
    settings: SamplingSettings,
    stop_ids: Sequence[int],
    graphs: bool | None = None,
    decode: Decode | None = None,
) -> list[list[GeneratedAnswer]]:
    """Answer one batch; every rank of a model replica calls this with the same arguments.

    Args:
        model: this rank's pipeline stage, on its device.
        prompts: at least one.
        images: the prompts' images; read on the first stage only.
        settings: sampling settings.
        stop_ids: tokens that end an answer.
        graphs, decode: see `DecodingSession`.

    Returns:
        `settings.num_samples` answers per prompt, in the order of `prompts`. The image token is never generated.
    """
    requests = [DecodingRequest(prompt, settings, frozenset(stop_ids)) for prompt in prompts]
    answers, samples = answer_batch(model, requests, images, decode, graphs), settings.num_samples
    return [answers[start : start + samples] for start in range(0, len(answers), samples)]


def answer_batch(
    model: Llava,
    requests: Sequence[DecodingRequest],
    images: ImageBatch | None,
    decode: Decode | None = None,
    graphs: bool | None = None,
) -> list[GeneratedAnswer]:
    """Likewise of requests with settings of their own; return all answers in one list."""
    slots, length = sum(one.sampling.num_samples for one in requests), max(one.length for one in requests)
    with DecodingSession(model, slots, length, decode, graphs, image_bytes=0) as session:
        rows = session.admit(requests, images)
        while session.busy:
            session.step()
        return [session.retire(row) for row in rows]
