"""From the body of a chat request to what the engine is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.rows import DecodingRequest
from nemo_mm_align.serving.served_model import ServedModel


@dataclass(frozen=True)
class AskedChat:
    """A chat request, read and checked.

    Args:
        requests: one; of a sweep, one for each assignment. All have the same number of answers (`num_samples`).
        images: of each of them, the same.
        attributes: what each of `requests` asks for, complete; None: nothing.
        model: as the client named it; the served name where it named none.
        stream, include_usage: how answers are to be sent.
        ignored: fields that nothing was made of, fit for a header.
        copies: choices that each answer is: n where the most probable token is taken, since n answers would be equal.
    """

    requests: tuple[DecodingRequest, ...]
    images: ImageBatch | None
    attributes: tuple[dict[str, float] | None, ...]
    model: str
    stream: bool = False
    include_usage: bool = False
    ignored: tuple[str, ...] = ()
    copies: int = 1

    @property
    def num_choices(self) -> int:
        """Of the whole response."""
        return len(self.requests) * self.requests[0].sampling.num_samples * self.copies

    def choices(self, request: int, sample: int) -> range:
        """Return the indices of the choices that an answer becomes: those of the first request come first.

        Args:
            request: place in `requests`.
            sample: which of its answers.
        """
        first = (request * self.requests[0].sampling.num_samples + sample) * self.copies
        return range(first, first + self.copies)


def read_chat(body: Mapping[str, Any], served: ServedModel) -> AskedChat:
    """Return what a body of ``/v1/chat/completions`` asks for; pictures are fetched and decoded meanwhile.

    Raises:
        ApiError: whatever is wrong with it.
    """
    raise NotImplementedError
