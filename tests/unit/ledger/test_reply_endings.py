"""How replies end, by every judge: natural ends, cuts, blocks, thoughts."""

import json
import re

import pytest

from nemo_mm_align.core.errors import UserError
from tests.judge_server import (
    Exchange,
    Files,
    Reply,
    generated,
    honest,
    judge_server,
)
from tests.unit.ledger.runs import COUNT, Run, assert_right, ledger_path, lines_of

GEMINI_ENDS = {
    "IMAGE_PROHIBITED_CONTENT": "safety",
    "IMAGE_SAFETY": "safety",
    "SPII": "safety",
    "BLOCKLIST": "safety",
    "IMAGE_RECITATION": "recitation",
    "MAX_TOKENS": "truncated",
    "LANGUAGE": "unparsable",
    "OTHER": "unparsable",
    "MALFORMED_FUNCTION_CALL": "unparsable",
    "UNEXPECTED_TOOL_CALL": "unparsable",
    "TOO_MANY_TOOL_CALLS": "unparsable",
    "MISSING_THOUGHT_SIGNATURE": "unparsable",
    "MALFORMED_RESPONSE": "unparsable",
    "NO_IMAGE": "unparsable",
    "A_REASON_OF_TOMORROW": "unparsable",
}


@pytest.mark.parametrize("judge", ["gemini", "google_genai"])
@pytest.mark.filterwarnings("ignore:.*is not a valid FinishReason")
def test_every_end_but_the_natural_one_is_a_failure(judge: str, run: Run, files: Files) -> None:
    for reason, kind in GEMINI_ENDS.items():
        ledger_path(files).unlink(missing_ok=True)

        def ended(exchange: Exchange, reason: str = reason) -> Reply:
            reply = honest(exchange)
            assert isinstance(reply.body, dict)
            reply.body["candidates"][0]["finishReason"] = reason
            return reply

        with judge_server(ended) as server, pytest.raises(UserError, match="have no annotation"):
            run(server, judge, runner={"concurrency": 1, "max_attempts": 1})
        assert {line["kind"] for line in lines_of(files)[1:]} == {kind}, reason


@pytest.mark.parametrize("judge", ["gemini", "google_genai"])
@pytest.mark.filterwarnings("ignore:.*is not a valid BlockedReason")
def test_a_prompt_that_is_blocked_for_a_new_reason_is_blocked(judge: str, run: Run, files: Files) -> None:
    blocked = Reply({"promptFeedback": {"blockReason": "REASON_OF_TOMORROW"}})
    with judge_server(lambda exchange: blocked) as server, pytest.raises(UserError, match="have no annotation"):
        run(server, judge)
    assert {line["kind"] for line in lines_of(files)[1:]} == {"safety"}


@pytest.mark.parametrize("judge", ["gemini", "google_genai"])
def test_parts_without_text_and_thoughts_are_passed_over(judge: str, run: Run, files: Files) -> None:
    def in_parts(exchange: Exchange) -> Reply:
        text = json.loads(json.dumps(honest(exchange).body))["candidates"][0]["content"]["parts"][0]["text"]
        body = generated(text[40:])
        others = [{"text": '{"ratings": []}', "thought": True}, {"text": None}, {"text": text[:40]}]
        body["candidates"][0]["content"]["parts"][:0] = others
        return Reply(body)

    with judge_server(in_parts) as server:
        assert run(server, judge).tally.answered == COUNT
    assert_right(files)


ENDS = {
    **dict.fromkeys(("stop", "eos_token", "eos", "end_turn", "stop_sequence", "COMPLETE", "STOP", "", None), ""),
    **dict.fromkeys(("length", "max_tokens", "MAX_TOKENS", "max_length", "model_context_window_exceeded"), "truncated"),
    **dict.fromkeys(("content_filter", "SAFETY", "sensitive", "refusal"), "safety"),
    **dict.fromkeys(("tool_calls", "function_call", "tool_use"), "unparsable"),
    **dict.fromkeys(("error", "abort", "insufficient_system_resource", "network_error", "cancelled"), "server"),
}


def test_servers_have_many_words_for_a_natural_end(run: Run, files: Files) -> None:
    for reason, kind in ENDS.items():
        ledger_path(files).unlink(missing_ok=True)

        def ended(exchange: Exchange, reason: str | None = reason) -> Reply:
            reply = honest(exchange)
            assert isinstance(reply.body, dict)
            reply.body["choices"][0]["finish_reason"] = reason
            reply.body["choices"][0]["message"]["reasoning_content"] = '{"ratings": []}'
            return reply

        with judge_server(ended) as server:
            run(server, "openai", allow_failures=True, runner={"concurrency": 1, "max_attempts": 1})
        assert {line.get("kind", "") for line in lines_of(files)[1:]} == {kind}, reason


def test_thoughts_in_a_field_of_their_own_are_no_answer(run: Run, files: Files) -> None:
    def thinks(exchange: Exchange) -> Reply:
        reply = honest(exchange)
        assert isinstance(reply.body, dict)
        message = reply.body["choices"][0]["message"]
        message["reasoning"], message["reasoning_content"] = message["content"], message["content"]
        message["content"] = [{"type": "thinking", "text": message["content"]}, {"type": "text", "text": None}]
        return reply

    with judge_server(thinks) as server, pytest.raises(UserError, match="have no annotation"):
        run(server, "openai", runner={"concurrency": 1, "max_attempts": 1})
    assert {line["kind"] for line in lines_of(files)[1:]} == {"unparsable"}


@pytest.mark.parametrize("count", ["1e999", "-5", "1e30", '"12"', "[3]", "null", "true", "9" * 400])
def test_absurd_token_counts_cost_nothing(count: str, run: Run, files: Files) -> None:
    def counts(exchange: Exchange) -> Reply:
        body = json.dumps(honest(exchange).body)
        return Reply(re.sub(r'"(prompt|completion)_tokens": \d+', rf'"\1_tokens": {count}', body))

    with judge_server(counts) as server:
        summary = run(server, "openai")
    assert summary.tally.answered == COUNT and not summary.tally.usage
