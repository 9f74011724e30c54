"""Sampling, limits and fields of a chat request; messages that no model can be shown."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml

from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.serving.chat_request import read_chat
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.run import limits_of
from nemo_mm_align.serving.served_model import Limits, ServedModel
from nemo_mm_align.serving.settings import RequestLimits
from nemo_mm_align.serving.tokenize import detokenize, tokenize
from tests.unit.serving.toy_model import CONF, assistant, body, image_part, schema, served, text_part, user


@pytest.fixture(scope="module")
def model() -> ServedModel:
    defaults = SamplingSettings(temperature=0.5, top_p=0.9, top_k=7, max_new_tokens=100)
    return served(sampling=defaults, limits=Limits(max_choices=16, max_images=2, max_text_characters=20000))


def refusal(model: ServedModel, /, *messages: Any, **more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read_chat(body(*messages, **more), model)
    return caught.value


def sampling(model: ServedModel, /, **more: Any) -> SamplingSettings:
    return read_chat(body(**more), model).requests[0].sampling


def test_sampling_is_the_requests_else_the_servers(model: ServedModel) -> None:
    own = dict(temperature=1, top_p=0.5, top_k=3, seed=-4, n=2, max_tokens=9, stop=["a", "b"])
    assert sampling(model, **own) == SamplingSettings(1.0, 0.5, 3, 9, 2, -4, ("a", "b"))
    default = sampling(model, **dict.fromkeys(own))
    assert (default.temperature, default.top_p, default.top_k, default.stop) == (0.5, 0.9, 7, ())
    assert (default.max_new_tokens, default.num_samples) == (100, 1)
    assert len({sampling(model).seed for _ in range(4)}) == 4, "a seed of its own for every request without one"
    assert sampling(model, stop="a").stop == ("a",) and sampling(model, top_k=-1).top_k == 0
    assert [sampling(model, **{name: 5}).max_new_tokens for name in ("max_tokens", "max_completion_tokens")] == [5, 5]
    assert sampling(model, max_tokens=5, max_completion_tokens=5).max_new_tokens == 5


@pytest.mark.parametrize("more", [{"temperature": 0}, {"temperature": 1e-9}, {"top_p": 0, "temperature": 1}])
def test_several_greedy_answers_are_one_answer_shown_several_times(model: ServedModel, more: dict[str, Any]) -> None:
    asked = read_chat(body(n=12, **more), model)
    assert asked.requests[0].sampling.greedy and asked.requests[0].sampling.num_samples == 1
    assert (asked.copies, asked.num_choices, list(asked.choices(0, 0))) == (12, 12, list(range(12)))
    assert refusal(model, n=12).message == "n=12: at most 8 answers of a prompt are made at once."
    assert refusal(model, n=17, **more).message == "n=17: at most 16 answers are given to one request."


def test_an_answer_has_the_room_that_the_prompt_leaves(model: ServedModel) -> None:
    long = user("x " * 1450)
    (request,) = read_chat(body(long, max_tokens=1), model).requests
    room = 3000 - len(request.prompt.ids)
    assert 0 < room < 100 and read_chat(body(long), model).requests[0].length == 3000
    error = refusal(model, long, max_tokens=room + 1)
    assert (error.status, error.code) == (400, "context_length_exceeded")
    assert (
        f"maximum context length is 3000 tokens. The messages take {3000 - room} and max_tokens={room + 1}"
        in error.message
    )
    assert refusal(model, user("x " * 1600)).code == "context_length_exceeded"
    assert "20,002 characters" in refusal(model, user("x " * 10001)).message


def test_logprobs_and_streaming(model: ServedModel) -> None:
    def told(**more: Any) -> int | None:
        return read_chat(body(**more), model).requests[0].top_logprobs

    assert (told(), told(logprobs=False), told(logprobs=True), told(logprobs=True, top_logprobs=20)) == (
        None,
        None,
        0,
        20,
    )
    asked = read_chat(body(stream=True, stream_options={"include_usage": True, "include_obfuscation": True}), model)
    assert (asked.stream, asked.include_usage, asked.ignored) == (True, True, ("stream_options.include_obfuscation",))
    assert not read_chat(body(stream=True), model).include_usage


def test_stop_tokens_are_the_templates_and_the_tokenizers() -> None:
    model = served("chatml")
    ids = {model.encoder.stop_id, model.encoder.tokenizer.eos_token_id}
    assert read_chat(body(), model).requests[0].stop_ids == ids and len(ids) == 2


def test_what_is_passed_over_is_named(model: ServedModel) -> None:
    nothing = dict(
        frequency_penalty=0, presence_penalty=0.0, logit_bias={}, tools=[], tool_choice="auto", repetition_penalty=1.0,
        response_format={"type": "text"}, user="me", metadata=None, add_generation_prompt=True, min_p=0,
        skip_special_tokens=True, continue_final_message=False, n=None,
    )  # fmt: skip
    assert read_chat(body(**nothing), model).ignored == ()
    message = {"role": "user", "content": "Hi", "name": "Ann", "refusal": None, "tool_calls": []}
    odd = {
        "frequency_penalty": 0.5,
        "store": 0,
        "tools": [{}],
        "no\r\nX-Evil: 1": 1,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert read_chat(body(message, **odd), model).ignored == (
        *("frequency_penalty", "store", "tools", "no??X-Evil??1"),
        *("chat_template_kwargs.enable_thinking", "messages.name"),
    )
    many = read_chat(body(**{f"field{number}": 1 for number in range(100)}), model).ignored
    assert len(many) == 33 and many[-1] == "..."


@pytest.mark.parametrize(
    ("more", "param", "message"),
    [
        ({"temperature": -1}, "temperature", "temperature: input should be greater than or equal to 0."),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"temperature": "0"}, "temperature", "valid number"),
        ({"temperature": True}, "temperature", "valid number"),
        ({"temperature": float("nan")}, "temperature", "finite number"),
        ({"temperature": 10**400}, "temperature", "number"),
        ({"top_p": 1.1}, "top_p", "less than or equal to 1"),
        ({"top_k": -2}, "top_k", "greater than or equal to -1"),
        ({"top_k": 1.0}, "top_k", "valid integer"),
        ({"seed": 2**63}, "seed", "less than"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"stop": ["a", ""]}, "stop[1]", "at least 1 character"),
        ({"stop": ["a"] * 17}, "stop", "at most 16 items"),
        ({"stop": ["a", "\udc00"]}, "stop[1]", "unicode"),
        ({"stop": 3}, "stop", "valid tuple"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens", "differ; give one of them"),
        ({"logprobs": 5}, "logprobs", "valid boolean"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"top_logprobs": 2}, "top_logprobs", "without logprobs: true"),
        ({"stream_options": {}}, "stream_options", "without stream: true"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "valid boolean"),
        ({"model": 3}, "model", "valid string"),
        ({"model": f"toy@verbosity=0.{'0' * 1000}"}, "model", "at most 1000 characters"),
        ({"chat_template": "{{ messages }}"}, "chat_template", "cannot bring a template"),
        (
            {"chat_template_kwargs": {"chat_template": ""}},
            "chat_template_kwargs.chat_template",
            "cannot bring a template",
        ),
        ({"add_generation_prompt": False}, "add_generation_prompt", "ends where the answer begins"),
        ({"continue_final_message": True}, "continue_final_message", "cannot be begun for the model"),
        (
            {"chat_template_kwargs": {"continue_final_message": True}},
            "chat_template_kwargs.continue_final_message",
            "begun",
        ),
    ],
)
def test_wrong_fields_are_named(model: ServedModel, more: dict[str, Any], param: str, message: str) -> None:
    error = refusal(model, **more)
    assert message in error.message and (error.status, error.param) == (400, param)
    assert error.body["error"] == {
        "message": error.message,
        "type": "invalid_request_error",
        "param": param,
        "code": error.code,
    }


SYSTEM = {"role": "system", "content": "a"}


@pytest.mark.parametrize(
    ("messages", "param", "message"),
    [
        (None, "messages", "at least one message"),
        ([], "messages", "at least one message"),
        ("Hi", "messages", "at least one message"),
        (["Hi"], "messages[0]", "object of role and content, not a text"),
        ([{"content": "Hi"}], "messages[0].role", "role is null"),
        ([{"role": "tool", "content": "Hi"}], "messages[0].role", "role is 'tool'; this model knows system, developer, user"),
        ([user("a"), user("b")], "messages[1].role", "messages[1] is of the user where one of the assistant is due"),
        ([assistant("a"), user("b")], "messages[0].role", "one of the user is due"),
        ([SYSTEM, SYSTEM, user("b")], "messages[1].role", "at most one system message"),
        ([SYSTEM], "messages", "must end with one of the user, not of the system"),
        ([user("a"), assistant("b")], "messages", "must end with one of the user, not of the assistant"),
        ([user(None)], "messages[0]", "content is null; give a text or a list of parts"),
        ([user(["a"])], "messages[0].content[0]", "a part is an object with a type, not a text"),
        ([user([{"type": "video_url"}])], "messages[0].content[0].type", "type is 'video_url'"),
        ([user([{"type": ["text"]}])], "messages[0].content[0].type", "type is a list"),
        ([user([{"type": "text"}])], "messages[0].content[0].text", "text is null"),
        ([user([{"type": "image_url"}])], "messages[0].content[0]", "there is no picture; write"),
        ([user([text_part("a"), {"type": "image_url", "image_url": {"url": 3}}])], "messages[0].content[1]", "no picture"),
        ([user("a"), assistant([image_part()]), user("b")], "messages[1].content[0]", "only stand in a user message"),
        ([user("a <image> b")], "messages[0].content", "contains <image> as text"),
        ([user([text_part("a <im"), text_part("age>"), image_part()])], "messages[0].content", "contains <image> as text"),
        ([user("a"), assistant("<image>"), user("b")], "messages[1].content", "contains <image> as text"),
        ([user("a"), assistant("b</s>"), user("b")], "messages", "turn 2 (assistant) contains '</s>', which is a special token"),
        ([user("a \ud83d b")], "messages[0].content", "character 2 is a lone surrogate"),
        ([user([image_part()] * 3)], "messages", "3 pictures; at most 2 are read"),
    ],
)  # fmt: skip
def test_messages_that_no_model_can_be_shown(model: ServedModel, messages: Any, param: str, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_chat({"messages": messages}, model)
    assert message in caught.value.message and (caught.value.status, caught.value.param) == (400, param)


def test_text_of_two_parts_around_a_picture_is_not_one_text(model: ServedModel) -> None:
    asked = read_chat(body(user([text_part("<im"), image_part(), text_part("age>")])), model)
    assert asked.requests[0].prompt.ids.count(model.encoder.image_token_id) == 4


def test_tokens_of_messages_and_of_texts() -> None:
    model = served(attributes=schema())
    messages = [user([image_part(), text_part("What?")])]
    given = {"messages": messages, "attributes": {"verbosity": 0}}
    found = tokenize(given, model)
    ids = read_chat(given, model).requests[0].prompt.ids
    assert found == {"count": len(ids), "max_model_len": 3000, "tokens": ids, "token_strs": None}
    plain = tokenize({"prompt": "A red circle.</s>", "return_token_strs": True}, model)
    assert plain["tokens"][-1] == model.encoder.stop_id and plain["token_strs"][-1] == "</s>"
    assert detokenize({"tokens": plain["tokens"]}, model) == {"prompt": "A red circle.</s>"}
    for call, wrong, message in [
        (tokenize, {}, "either messages or prompt"), (tokenize, {"prompt": "\udc00"}, "lone surrogate"),
        (detokenize, {"tokens": [10**6]}, "tokens[0]=1000000: the tokenizer knows 0 to"),
        (detokenize, {}, "tokens: field required"),
        (detokenize, {"tokens": [1], "model": "x"}, "no model"), (detokenize, {"tokens": [-1]}, "tokens[0]: input"),
    ]:  # fmt: skip
        with pytest.raises(ApiError) as caught:
            call(wrong, model)
        assert message in caught.value.message


def test_many_threads_read_at_once(model: ServedModel) -> None:
    bodies = [body(user([image_part(("red", "blue")[number % 2]), text_part("x " * number)])) for number in range(60)]
    alone = [read_chat(one, model).requests[0].prompt.ids for one in bodies]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda one: read_chat(one, model).requests[0].prompt.ids, bodies))
    assert together == alone


def test_no_sweep_is_allowed_that_the_queue_never_holds() -> None:
    limits = RequestLimits(**yaml.safe_load((CONF / "serve.yaml").read_text(encoding="utf-8"))["limits"])
    assert [limits_of(limits, room).max_choices for room in (5, 1000)] == [5, 64]
