"""Whatever a body holds, reading it gives a request or one clear error."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from nemo_mm_align.serving.chat_request import read_chat
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.protocol import NO_OPS, ChatBody
from nemo_mm_align.serving.served_model import ServedModel
from nemo_mm_align.serving.tokenize import detokenize, tokenize
from tests.odd_values import ODD
from tests.unit.serving.toy_model import assistant, body, data_url, image_part, png, schema, served, text_part, user

BODIES = 3000


def nested(depth: int = 5000) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def nested_objects(depth: int = 5000) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


VALUES: list[Any] = [
    *copy.deepcopy(list(ODD.values())), -math.inf, 10**5000, -(10**400), 2**63, 2**31, -0.0, 1e-320,
    "\ud800", "\x00", "<image>", "</s>", "<|im_start|>",
    "a" * 3000, "ﷺ" * 50, [], {}, [[]], [{}], nested(), nested_objects(), {"type": "text"}, {"url": nested()},
    "data:,", "data:;base64,",
    data_url(b"GIF89a"), data_url(png()[:-30]), "http://127.0.0.1/a", "file:///etc/passwd", "http://[",
    "toy@verbosity=", "toy@none",
    {"verbosity": nested()}, {"verbosity": "\ud800"}, {"\ud800": 1}, {"verbosity": 10**5000}, {"verbosity": [math.nan]},
    ["verbosity"] * 99,
]  # fmt: skip
FIELDS = [*ChatBody.model_fields, *NO_OPS, "tokens", "prompt", "\ud800", "attributs"]


def valid(source: random.Random) -> dict[str, Any]:
    turns = [user([text_part("What"), image_part(), text_part(" is it?")]), assistant("A circle."), user("Sure?")]
    options: dict[str, Any] = {
        "attributes": {"verbosity": 1}, "temperature": 0.5, "stop": ["a"], "n": 2, "sweep": {"verbosity": [0, 4]}, "seed": 1,
        "chat_template_kwargs": {"attributes": {"verbosity": 1}}, "stream": True, "logprobs": True,
        "top_logprobs": 3, "max_tokens": 4,
    }  # fmt: skip
    chosen = source.sample(sorted(options), source.randrange(len(options)))
    return copy.deepcopy(body(*turns[: source.choice([1, 3, 3])], **{name: options[name] for name in chosen}))


def places(value: Any, depth: int = 6) -> list[tuple[Any, Any]]:
    """Every place of a body that something else can be put into: a container and a key of it."""
    if not depth:
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [found for key in keys for found in ((value, key), *places(value[key], depth - 1))]


def spoilt(source: random.Random) -> dict[str, Any]:
    made = valid(source)
    for _ in range(source.choice([0, 1, 1, 2, 3])):
        if source.random() < 0.3:
            made[source.choice(FIELDS)] = copy.copy(source.choice(VALUES))
            continue
        container, key = source.choice(places(made))
        if source.random() < 0.15:
            del container[key]
        elif container is made or source.random() < 0.9:
            container[key] = copy.copy(source.choice(VALUES))
        if not places(made):
            return made
    return made


def outcome(call: Callable[[Any, ServedModel], Any], given: Any, model: ServedModel) -> Any:
    try:
        return call(given, model)
    except ApiError as error:
        assert 400 <= error.status < 500 and 10 < len(error.message) < 1500, error.message
        json.dumps(error.body, ensure_ascii=False).encode()
        return error


@pytest.mark.parametrize("attributes", [True, False])
def test_no_body_breaks_anything(attributes: bool) -> None:
    source = random.Random(7)
    model = served(
        attributes=schema() if attributes else None, aliases={"toy-short": {"verbosity": 0}} if attributes else {}
    )
    refused = 0
    for _ in range(BODIES // 2):
        given = spoilt(source)
        asked = outcome(read_chat, given, model)
        refused += isinstance(asked, ApiError)
        if not isinstance(asked, ApiError):
            pictures = sum(request.prompt.ids.count(model.encoder.image_token_id) for request in asked.requests)
            assert pictures == 4 * sum(len(request.pictures) for request in asked.requests)
            assert all(request.length <= model.length for request in asked.requests)
            ",".join(asked.ignored).encode("ascii")
            asked.model.encode()
        outcome(tokenize, given, model)
        outcome(detokenize, given, model)
    assert BODIES * 0.2 < refused < BODIES * 0.49, "some are fine"


@pytest.mark.parametrize("given", [None, [], "a", 3, nested()])
def test_what_is_no_object_is_refused(given: Any) -> None:
    assert isinstance(outcome(read_chat, given, served()), ApiError)
