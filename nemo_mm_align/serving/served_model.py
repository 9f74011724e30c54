"""What a server knows of its model: names, what it can be asked for, defaults and limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nemo_mm_align.core.errors import UserError, shorten
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.serving.asked_attributes import check_some
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.level_words import sayable
from nemo_mm_align.serving.pictures import PictureStore

MARK = "@"
"""Between a model's name and what it is asked for, as in ``name@verbosity=0,complexity=4``."""
SEPARATORS = ",;+"
"""Between attributes behind the mark; not every client can send a comma: lmms-eval takes it for the end of a setting."""
NOTHING = "none"
"""Behind the mark: the model is asked for no attributes."""
OWNER = "nemo_mm_align"


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
        default_attributes: take the place of the schema's defaults; numbers or words.
        aliases: further names, and what each asks for; None: nothing at all.
        sampling: where a request says nothing; its seed and number of answers are not used.
        limits: of one request.

    Raises:
        UserError: names or attributes that cannot be.
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
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.name or MARK in self.name or self.name in self.aliases:
            raise UserError(f"name={self.name!r}: give a name without {MARK} that no alias has as well.")
        try:
            if self.default_attributes or self.asks_by_default:
                check_some(self.schema, self.default_attributes, "attributes")
            for alias in self.aliases:
                self.base_of(alias)
        except ApiError as error:
            raise UserError(error.message) from None

    @property
    def schema(self) -> AttributeSchema | None:
        """Of the attributes that can be asked for."""
        return self.encoder.schema

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        eos = self.encoder.tokenizer.eos_token_id
        return frozenset({self.encoder.stop_id, *([] if eos is None else [int(eos)])})

    @cached_property
    def defaults(self) -> dict[str, float]:
        """Values of attributes that nobody names: the server's, else the schema's."""
        return {} if self.schema is None else self._complete(self.default_attributes, "attributes")

    def base_of(self, model: str | None) -> dict[str, float] | None:
        """Return what a name asks for before the request itself says anything, complete; None: nothing.

        Args:
            model: the name, an alias, or the name with attributes behind it; None or "": the name.

        Raises:
            ApiError: there is no such model, or it cannot be asked so.
        """
        if not model or model == self.name:
            return self.defaults if self.asks_by_default else None
        if model in self.aliases:
            values = self.aliases[model]
            return None if values is None else self._complete(values, f"aliases.{model}")
        name, mark, text = model.partition(MARK)
        if not mark or name != self.name:
            raise self._unknown(model)
        return None if text == NOTHING else self._complete(_assigned(text), "model")

    def _complete(self, values: Mapping[str, Any], where: str) -> dict[str, float]:
        """Over the server's defaults, in schema order."""
        given = {
            **check_some(self.schema, self.default_attributes, "attributes"),
            **check_some(self.schema, values, where),
        }
        assert self.schema is not None
        return self.schema.complete(given)

    def _unknown(self, model: str) -> ApiError:
        names = ", ".join((self.name, *self.aliases))
        more = f", and {self.name}{MARK}ATTRIBUTE=VALUE,..." if self.schema else ""
        return ApiError(
            404, f"there is no model {shorten(model, 80)!r} here; there is {names}{more}.", "model", "model_not_found"
        )


def _assigned(text: str) -> dict[str, Any]:
    """``verbosity=0,complexity=expert`` as a mapping, numbers as numbers; a plus sign before a number is its own."""
    found = dict[str, Any]()
    for item in re.split(rf"(?<!=)[{SEPARATORS}]", text):
        name, equal, value = item.partition("=")
        if not equal or name.strip() in found:
            raise ApiError(
                400,
                f"model: {shorten(item, 40)!r} behind {MARK} is not ATTRIBUTE=VALUE, or stands there twice.",
                "model",
            )
        found[name.strip()] = _number(value.strip())
    return found


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def model_cards(served: ServedModel) -> list[dict[str, Any]]:
    """Return ``data`` of ``GET /v1/models``: the model under its name, then under its aliases."""
    return [_card(served, name) for name in (served.name, *served.aliases)]


def _card(served: ServedModel, name: str) -> dict[str, Any]:
    base = served.base_of(name)
    return {
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": OWNER,
        "root": served.name,
        "max_model_len": served.length,
        "attributes": [describe(item) for item in served.schema.asked] if served.schema else [],
        "default_attributes": base if base is not None else (served.defaults or None),
        "asked_by_default": base is not None,
        "images": True,
        "kind": "chat",
    }


def describe(attribute: Attribute) -> dict[str, Any]:
    """Return what can be asked of an attribute, JSON-ready; ``words`` are those that name a level."""
    shown = ("name", "minimum", "maximum", "integer", "default", "higher_is_better", "description")
    return {
        **{name: getattr(attribute, name) for name in shown},
        "label": attribute.label,
        "levels": {f"{level:g}": text for level, text in attribute.levels.items()},
        "words": {word: level for level, word in sayable(attribute).items()},
    }
