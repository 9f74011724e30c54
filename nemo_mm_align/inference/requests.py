"""What is asked of the model: prompts with the attributes asked for, tokenised and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.own_decoding import LIMIT
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Prompt

SHOWN_FAULTS = 5

Assignment = Mapping[str, Any] | None
"""Attribute values that an answer is asked to have; None asks for nothing."""

Key = tuple[str, tuple[float, ...]]
"""Identity of a request: prompt and asked values in schema order."""


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as the model reads it.

    Args:
        id: of the record; the random numbers of its answers depend on it.
        ids: token ids, image token once per image embedding.
        image_paths: in order of appearance.
    """

    id: str
    ids: list[int]
    image_paths: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Request:
    """One prompt under one assignment of attributes, as the model reads it."""

    prompt: Prompt
    attributes: dict[str, float] | None
    encoded: EncodedPrompt

    @property
    def prompt_id(self) -> str:
        """Of the record."""
        return self.prompt.id

    @property
    def key(self) -> Key:
        """Tells the requests of a run apart."""
        return request_key(self.prompt_id, self.attributes)


def request_key(prompt_id: str, attributes: Mapping[str, float] | None) -> Key:
    """Identity of a request: prompt and asked values in schema order."""
    return prompt_id, tuple(float(value) for value in (attributes or {}).values())


def sweep_assignments(schema: AttributeSchema, base: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, float]]:
    """Return the assignments that move one named attribute at a time over its range, the others as in `base`.

    Attributes that `base` leaves out have their defaults. An assignment that several attributes share comes once.
    """
    schema.refuse_unasked(names)
    start = schema.complete(base)
    found = [{**start, name: value} for name in names for value in schema[name].steps()]
    return [assignment for place, assignment in enumerate(found) if assignment not in found[:place]]


def make_requests(
    prompts: Iterable[Prompt],
    encoder: Encoder,
    assignments: Sequence[Assignment] = (None,),
    resolve: Callable[[str], Path] = Path,
    drawn: Callable[[str], dict[str, float]] | None = None,
) -> list[Request]:
    """Tokenise every prompt under every assignment.

    Args:
        prompts: with distinct ids.
        encoder: of the model that will answer; its schema completes partial assignments.
        assignments: what is asked of each prompt.
        resolve: maps a record's image path to the file.
        drawn: in place of `assignments`: the complete one for a prompt's id.

    Raises:
        UserError: unknown attributes, two prompts of one id, or prompts that cannot be encoded; the message names them.
    """
    complete = [None if values is None else _complete(encoder, values) for values in assignments]
    requests, faults, seen = [], [], set()
    for prompt in prompts:
        if prompt.id in seen:
            faults.append(f"prompt {prompt.id!r}: this id stands there twice.")
        seen.add(prompt.id)
        try:
            paths = tuple(resolve(path) for path in prompt.images)
            for values in complete if drawn is None else [drawn(prompt.id)]:
                encoded = EncodedPrompt(prompt.id, encoder.encode_prompt(prompt.turns, values), paths)
                requests.append(Request(prompt, values, encoded))
        except UserError as error:
            faults.append(f"prompt {prompt.id!r}: {error}")
    raise_faults(faults, "Correct or remove these prompts.")
    return requests


def _complete(encoder: Encoder, values: Mapping[str, Any]) -> dict[str, float]:
    if encoder.schema is None:
        raise UserError("attributes are given, but there is no attribute schema; set attribute_schema.")
    return encoder.schema.complete(values)


def check_lengths(requests: Sequence[Request], max_new_tokens: int, max_positions: int) -> None:
    """Raise `UserError` naming the prompts that leave no room for an answer of `max_new_tokens`."""
    raise_faults(length_faults(requests, max_new_tokens, max_positions), length_remedy(max_positions))


def length_faults(requests: Iterable[Request], max_new_tokens: int, max_positions: int) -> list[str]:
    """Return in words, once each, which prompts leave no room for an answer of `max_new_tokens`."""
    faults = [
        f"prompt {request.prompt_id!r}: {len(request.encoded.ids)} tokens and {max_new_tokens} new ones"
        for request in requests
        if len(request.encoded.ids) + max_new_tokens > max_positions
    ]
    return list(dict.fromkeys(faults))


def length_remedy(max_positions: int, limits: str = LIMIT) -> str:
    """Return what can be done about `length_faults`; `limits` are the settings that bound the answers."""
    return f"The model has {max_positions} positions: lower {limits}, or shorten or remove these prompts."


def raise_faults(faults: Sequence[str], remedy: str) -> None:
    """Raise one `UserError` for all faults, if there are any; the first few are written out."""
    if not faults:
        return
    more = len(faults) - SHOWN_FAULTS
    lines = [*faults[:SHOWN_FAULTS], *([f"and {more} more"] if more > 0 else [])]
    raise UserError("\n  ".join([f"{len(faults)} faults in the input:", *lines]) + f"\n{remedy}")


def own_ways(prompts: Iterable[Prompt]) -> list[str]:
    """Return in words which prompts are to be answered in a way of their own."""
    said = [(prompt.id, [name for name in ("follow_ups", "decoding") if getattr(prompt, name)]) for prompt in prompts]
    return [f"prompt {name!r} has {' and '.join(own)} of its own." for name, own in said if own]
