"""The judge that asks Anthropic's service: what it sends, its errors, its address."""

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.attributes import AttributeSchema
from tests.judge_server import Files, Reply, judge_server
from tests.unit.judges.services import KEY, anthropic, ask, failure_of


def test_anthropic_sends_rubric_schema_and_decoding(files: Files, helpsteer: AttributeSchema) -> None:
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    with judge_server() as server:
        anthropic(server.address, temperature=0.0, max_output_tokens=2077, extra_body=thinking).judge(
            ask(files, helpsteer)
        )
        anthropic(server.address, response_format=None).judge(ask(files, helpsteer))
    body, plain = (exchange.body for exchange in server.exchanges)
    assert server.exchanges[0].path == "/v1/messages" and "anthropic-version" in server.exchanges[0].headers
    assert "verbosity (whole number from 0 to 4" in body["system"] and [m["role"] for m in body["messages"]] == ["user"]
    assert (body["max_tokens"], body["temperature"], body["thinking"]) == (2077, 0.0, thinking["thinking"])
    ratings = body["output_config"]["format"]["schema"]["properties"]["ratings"]
    scores = ratings["items"]["properties"]["scores"]
    assert scores["additionalProperties"] is False and "minItems" not in ratings, "bounds that the service refuses"
    assert not {"temperature", "top_p", "output_config", "thinking"} & set(plain)


ANTHROPIC_REPLIES = {
    "credit": ("Your credit balance is too low to access the API", 400, "invalid_request_error", "refused"),
    "key": ("invalid x-api-key", 401, "authentication_error", "auth"),
    "region": ("Not available in your region", 403, "permission_error", "refused"),
    "model": ("model: claude-9", 404, "not_found_error", "refused"),
    "long": ("prompt is too long: 300000 tokens", 400, "invalid_request_error", "bad_request"),
    "large": ("Request exceeds the maximum size", 413, "request_too_large", "bad_request"),
    "overloaded": ("Overloaded", 529, "overloaded_error", "server"),
}


@pytest.mark.parametrize(("message", "status", "name", "kind"), ANTHROPIC_REPLIES.values(), ids=ANTHROPIC_REPLIES)
def test_anthropic_errors_have_their_class(message, status, name, kind, files: Files, helpsteer) -> None:
    reply = Reply({"type": "error", "error": {"type": name, "message": message}}, status)
    failure = failure_of(anthropic, reply, files, helpsteer)
    assert failure.kind == kind and message in failure.message and f"HTTP {status}" in failure.message


@pytest.mark.parametrize("body", ["[1]", '{"content": "text"}', '{"content": [{"type": "text"}]}', "{}"])
def test_anthropic_replies_that_are_no_messages_are_the_services_fault(body, files: Files, helpsteer) -> None:
    assert failure_of(anthropic, Reply(body), files, helpsteer).kind == "server"


def test_anthropic_asks_where_its_settings_say(files: Files, helpsteer, monkeypatch) -> None:
    """The library's own variables neither send the key elsewhere nor replace it."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "another")
    with judge_server() as server:
        anthropic(server.address).judge(ask(files, helpsteer))
    headers = server.exchanges[0].headers
    assert "another" not in str(headers) and KEY in str(headers)
    for taken in ("system", "max_tokens"):
        with pytest.raises(UserError, match=f"extra_body sets {taken}"):
            anthropic("http://x", extra_body={taken: 1})
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "Authorization: Bearer another")
    with pytest.raises(UserError, match="ANTHROPIC_CUSTOM_HEADERS is set"):
        anthropic("http://x")


def test_anthropic_keeps_the_schema_beside_other_settings_of_the_reply(files: Files, helpsteer) -> None:
    extra = {"output_config": {"effort": "low"}, "top_k": 5}
    with judge_server() as server:
        judge = anthropic(server.address, extra_body=extra)
        judge.judge(ask(files, helpsteer))
        assert judge.count_tokens(ask(files, helpsteer)) == 100
    body = server.exchanges[0].body
    assert (
        body["output_config"]["effort"] == "low" and "schema" in body["output_config"]["format"] and body["top_k"] == 5
    )
    assert judge.batch_request("k", ask(files, helpsteer))["params"] == body
