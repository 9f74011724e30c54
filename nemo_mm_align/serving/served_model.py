"""What a server knows of its model: names, what it can be asked for, defaults and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.serving.pictures import PictureStore


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Args:
        max_choices: answers of one request, over all assignments of a sweep.
        max_images: pictures of one request, each time that one is shown.
        max_text_characters: of all messages together.
    """

    max_choices: int = 64
    max_images: int = 16
    max_text_characters: int = 1_000_000


@dataclass(frozen=True)
class ServedModel:
    """A model as a server offers it.

    Args:
        name: under which it is asked.
        encoder: tokenizer, template, and the schema where it can be asked for attributes.
        pictures: reads images, with the model's image processor.
        length: positions of an answer with its prompt, at most.
        slots: answers of one prompt at once, at most.
        created: Unix time.
        asks_by_default: whether a request without attributes is asked at the defaults; else it is not asked at all.
        default_attributes: take the place of the schema's defaults.
        aliases: further names, and what each asks for; None: nothing at all.
        sampling: where a request says nothing; its seed is not used.
        limits: of one request.
    """

    name: str
    encoder: Encoder
    pictures: PictureStore
    length: int
    slots: int
    created: int = 0
    asks_by_default: bool = False
    default_attributes: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    sampling: SamplingSettings = SamplingSettings()
    limits: Limits = Limits()

    @property
    def schema(self) -> AttributeSchema | None:
        """Of the attributes that can be asked for."""
        return self.encoder.schema


def model_cards(served: ServedModel) -> list[dict[str, Any]]:
    """Return ``data`` of ``GET /v1/models``: the model under its name, then under its aliases."""
    raise NotImplementedError
