"""The judge that asks an OpenAI-compatible service: what it sends, its errors, its key."""

from pathlib import Path

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.clients.openai_compatible import OpenAICompatible
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt, Turn
from tests.judge_server import Files, Reply, judge_server
from tests.unit.judges.services import ask, failure_of, openai


def test_openai_sends_rubric_schema_and_decoding(files: Files, helpsteer: AttributeSchema) -> None:
    settings = {"max_tokens_parameter": "max_completion_tokens", "extra_body": {"reasoning_effort": "low"}}
    with judge_server() as server:
        openai(server.address, seed=7, max_output_tokens=77, **settings).judge(ask(files, helpsteer))
    body = server.exchanges[0].body
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert "verbosity (whole number from 0 to 4" in body["messages"][0]["content"]
    assert (body["seed"], body["max_completion_tokens"], body["reasoning_effort"]) == (7, 77, "low")
    assert "max_tokens" not in body and "top_p" not in body
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["ratings"]["items"]["properties"]["scores"]["additionalProperties"] is False


@pytest.mark.parametrize(("kind", "sent"), [("json_object", {"type": "json_object"}), (None, None)])
def test_openai_reply_format_is_a_choice(kind, sent, files: Files, helpsteer: AttributeSchema) -> None:
    with judge_server() as server:
        openai(server.address, response_format=kind).judge(ask(files, helpsteer))
    assert server.exchanges[0].body.get("response_format") == sent


def openai_error(status: int, code: str) -> Reply:
    return Reply({"error": {"message": "no", "code": code}}, status)


OPENAI_REPLIES = {
    "quota": (openai_error(429, "insufficient_quota"), "refused"),
    "key": (openai_error(401, "invalid_api_key"), "auth"),
    "unpaid": (openai_error(402, ""), "refused"),
    "length": (openai_error(400, "context_length_exceeded"), "bad_request"),
    "flat error": (Reply({"object": "error", "message": "too long", "code": 400}, 400), "bad_request"),
    "moved": (Reply("", 307, {"Location": "http://elsewhere/"}), "refused"),
    "refusal": (Reply({"choices": [{"finish_reason": "stop", "message": {"refusal": "I cannot"}}]}), "safety"),
    "tool call": (Reply({"choices": [{"finish_reason": "tool_calls", "message": {"content": None}}]}), "unparsable"),
    "no content": (Reply({"choices": [{"finish_reason": "stop", "message": {"content": None}}]}), "unparsable"),
    "error with 200": (Reply({"error": {"message": "upstream"}}), "server"),
    "list": (Reply("[1]"), "server"),
    "no message": (Reply({"choices": [{}]}), "server"),
}


@pytest.mark.parametrize(("reply", "kind"), OPENAI_REPLIES.values(), ids=OPENAI_REPLIES)
def test_openai_errors_have_their_class(reply: Reply, kind: str, files: Files, helpsteer: AttributeSchema) -> None:
    assert failure_of(openai, reply, files, helpsteer).kind == kind


def test_openai_takes_text_in_parts_and_prompts_without_image(files: Files, helpsteer: AttributeSchema) -> None:
    prompt = Prompt(id="t", turns=(Turn(role="user", content="What?"),))

    def in_parts(exchange) -> Reply:
        reply = exchange.front.generated('{"ratings": []}')
        reply.body["choices"][0]["message"]["content"] = [{"type": "text", "text": '{"ratings"'}, {"type": "image"}]
        return reply

    with judge_server(in_parts, allow_text=True) as server, pytest.raises(CallFailure) as caught:
        openai(server.address).judge(ask(files, helpsteer, prompt=prompt, image_paths=()))
    assert (caught.value.kind, caught.value.raw) == ("unparsable", '{"ratings"')
    assert server.exchanges[0].images == []


def test_openai_key_is_optional_and_netrc_is_not_sent(files, helpsteer, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password from-netrc\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match=r"OPENAI_API_KEY"):
        openai("http://x")
    (tmp_path / "key").write_text("file-key\n")
    with judge_server() as server:
        openai(server.address, api_key_variable=None).judge(ask(files, helpsteer))
        openai(server.address, api_key_file=str(tmp_path / "key")).judge(ask(files, helpsteer))
    sent = [exchange.headers.get("authorization") for exchange in server.exchanges]
    assert sent == [None, "Bearer file-key"]


def test_settings_of_openai_are_checked(helpsteer: AttributeSchema) -> None:
    wrong = {
        "judge.base_url": {"base_url": "localhost:8000"},
        "a password": {"base_url": "http://me:secret@x/v1"},
        "max_tokens_parameter": {"max_tokens_parameter": "limit"},
        "response_format": {"response_format": "xml"},
        "extra_body sets model": {"extra_body": {"model": "other"}},
        "extra_body.headers.Authorization: what stands here": {
            "extra_body": {"headers": {"Authorization": "Bearer x"}}
        },
        "extra_body.api_key: what stands here": {"extra_body": {"api_key": "x"}},
    }
    for problem, settings in wrong.items():
        with pytest.raises(UserError, match=problem):
            OpenAICompatible(**{"base_url": "http://x/v1", "model": "m", **settings})
    assert OpenAICompatible("http://a/v1", "m").settings == OpenAICompatible("http://b/v1", "m").settings
