"""A request becomes the tokens of training, whatever form its messages have."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_mm_align.schema.records import Prompt, Turn
from nemo_mm_align.serving.chat_request import read_chat
from nemo_mm_align.serving.served_model import ServedModel
from tests.unit.serving.toy_model import (
    TEMPLATES,
    TOKENS_PER_IMAGE,
    assistant,
    body,
    image_part,
    schema,
    served,
    text_part,
    user,
)

SYSTEM = {"role": "developer", "content": "Be brief."}
INTERLEAVED = [text_part("first "), image_part(), text_part("and"), image_part("blue"), text_part(" last")]
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str]]]] = {
    "text": ([user("What is it?")], [("user", "What is it?")]),
    "image": ([user([image_part(), text_part("What?")])], [("user", "<image>\nWhat?")]),
    "image behind": ([user([text_part("What?"), image_part()])], [("user", "What?<image>\n")]),
    "interleaved": ([user(INTERLEAVED)], [("user", "first <image>\nand<image>\n last")]),
    "several turns": (
        [
            user(INTERLEAVED),
            assistant(" A circle. "),
            user([image_part("green"), text_part("This?")]),
            assistant(""),
            user("So?"),
        ],
        [
            ("user", "first <image>\nand<image>\n last"),
            ("assistant", " A circle. "),
            ("user", "<image>\nThis?"),
            ("assistant", ""),
            ("user", "So?"),
        ],
    ),
    "system": (
        [SYSTEM, user("Hi"), assistant([text_part("Yes"), text_part(", I think")]), user("Sure?")],
        [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes, I think"), ("user", "Sure?")],
    ),
    "empty system": ([{"role": "system", "content": ""}, user("Hi")], [("system", ""), ("user", "Hi")]),
}
DEFAULTS = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 2}
ASKED: dict[str, tuple[dict[str, Any], dict[str, float] | None]] = {
    "absent": ({}, DEFAULTS),
    "null": ({"attributes": None}, None),
    "partial": ({"attributes": {"verbosity": 0}}, {**DEFAULTS, "verbosity": 0}),
    "complete": ({"attributes": dict.fromkeys(reversed(DEFAULTS), 1)}, dict.fromkeys(DEFAULTS, 1)),
    "words": ({"attributes": {"verbosity": "Verbose", "complexity": "basic"}}, {**DEFAULTS, "verbosity": 4, "complexity": 0}),
    "template": ({"chat_template_kwargs": {"attributes": {"complexity": 3.0}}}, {**DEFAULTS, "complexity": 3}),
}  # fmt: skip


@pytest.fixture(scope="module", params=TEMPLATES)
def model(request: pytest.FixtureRequest) -> ServedModel:
    return served(request.param, schema())


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("asking", ASKED)
def test_rendering_is_trainings(model: ServedModel, conversation: str, asking: str) -> None:
    messages, expected = CONVERSATIONS[conversation]
    more, values = ASKED[asking]
    turns = [Turn(role=role, content=content) for role, content in expected]
    pictures = sum(turn.content.count("<image>") for turn in turns)
    Prompt(id="p", images=("a.png",) * pictures, turns=tuple(turns))  # as a training record holds them
    asked = read_chat(body(*messages, **more), model)
    (request,) = asked.requests
    assert request.prompt.ids == model.encoder.encode_prompt(turns, values, may_be_empty=True)
    assert request.prompt.ids.count(model.encoder.image_token_id) == pictures * TOKENS_PER_IMAGE
    assert asked.attributes == (values,) and (request.prompt.id, asked.ignored) == ("", ())
    answer = Turn(role="assistant", content="A circle.")
    if all(turn.content.strip() for turn in turns if turn.role == "assistant"):
        example = model.encoder.encode_example([*turns, answer], values).ids
        assert example[: len(request.prompt.ids)] == request.prompt.ids


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": image_part()["image_url"]["url"], "detail": "auto"},
        {"type": "image", "image": image_part()["image_url"]["url"]},
        {"type": "image", "url": image_part()["image_url"]["url"]},
    ],
)
def test_pictures_in_other_spellings(model: ServedModel, part: dict[str, Any]) -> None:
    plain, other = (read_chat(body(user([one, text_part("What?")])), model) for one in (image_part(), part))
    assert plain.requests[0].pictures == other.requests[0].pictures
    assert plain.requests[0].prompt.ids == other.requests[0].prompt.ids


def test_a_model_without_attributes_is_asked_without() -> None:
    model = served()
    for more in ({}, {"attributes": None}):
        asked = read_chat(body(**more), model)
        assert asked.attributes == (None,)
        assert asked.requests[0].prompt.ids == model.encoder.encode_prompt([Turn(role="user", content="What is it?")])
