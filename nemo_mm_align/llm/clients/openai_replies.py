"""What an OpenAI-compatible service replies: text, token counts, and the classes of `CallFailure`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nemo_mm_align.llm.clients.endings import failure_of_ending
from nemo_mm_align.llm.clients.http_failures import count_of, retry_after
from nemo_mm_align.llm.clients.probabilities import most_likely_first
from nemo_mm_align.llm.failures import CallFailure, FailureKind
from nemo_mm_align.llm.question import Answer
from nemo_mm_align.llm.refusals import kind_of_error

BLOCKED = frozenset({"content_filter", "content_policy_violation"})


def read_reply(text: str, may_be_cut: bool = False) -> Answer:
    """Return the answer in the body of a reply with status 200; raise `CallFailure` where it holds none.

    Args:
        may_be_cut: the end of the tokens is a natural one: the question had a limit of its own.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CallFailure("server", f"the reply is no JSON ({error})", text) from None
    try:
        return _read(body, may_be_cut)
    except (AttributeError, KeyError, TypeError, IndexError):
        raise CallFailure("server", "the reply is no chat completion", text) from None


def read_batch_reply(line: Mapping[str, Any]) -> Answer:
    """Return the answer in a line of a batch's output or error file; raise `CallFailure` where it holds none."""
    raw = json.dumps(line, ensure_ascii=False)
    response, error = line.get("response"), line.get("error")
    if isinstance(response, Mapping):
        code, body = count_of(response.get("status_code")), json.dumps(response.get("body"), ensure_ascii=False)
        if code == 200:
            return read_reply(body)
        raise failure_of_http(code or 500, body, {})
    message = error.get("message", "") if isinstance(error, Mapping) else "neither a response nor an error"
    code_name = error.get("code", "") if isinstance(error, Mapping) else ""
    # Requests that a batch had no time for, or that were cancelled with it, were not asked at all.
    raise CallFailure("server", f"{code_name}: {message}".removeprefix(": "), raw)


def failure_of_http(status: int, text: str, headers: Mapping[str, str]) -> CallFailure:
    """Return the failure for a reply with another status than 200."""
    error = _error_of(text)
    names = " ".join(str(error.get(name) or "") for name in ("message", "code", "type", "status"))
    kind = kind_of_error(status, names if names.strip() else text)
    if str(error.get("code") or "") in BLOCKED:
        kind = "safety"
    message = str(error.get("message") or text[:200])
    return CallFailure(kind, f"HTTP {status}: {message}", text, retry_after(headers))


def _read(body: Mapping[str, Any], may_be_cut: bool) -> Answer:
    usage = _token_usage(body)
    kind, message = _classify(body)
    if kind is not None and not (may_be_cut and kind == "truncated"):
        raise CallFailure(kind, message, json.dumps(body, ensure_ascii=False), usage=usage)
    choice = body["choices"][0]
    version = str(body.get("model") or "")
    return Answer(_text(choice["message"].get("content")), usage, version, _first_token(choice.get("logprobs")))


def _first_token(logprobs: Any) -> tuple[tuple[str, float], ...]:
    """Return the alternatives of the first token; none where the service says nothing."""
    tokens = (logprobs or {}).get("content") or ()
    alternatives = tokens[0].get("top_logprobs") or () if tokens else ()
    return most_likely_first((one["token"], one["logprob"]) for one in alternatives)


def _classify(body: Mapping[str, Any]) -> tuple[FailureKind | None, str]:
    if not body.get("choices"):
        error = body.get("error")  # some proxies report errors with status 200
        return "server", f"the reply holds no choice{f': {error}' if error else ''}"
    choice = body["choices"][0]
    reason, refusal = choice.get("finish_reason"), choice["message"].get("refusal")
    if refusal:
        return "safety", f"the reply was blocked ({refusal})"
    return failure_of_ending(str(reason)) if reason else (None, "")


def _text(content: Any) -> str:
    """Return the text of a message; some services send it in parts."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if part.get("type") in ("text", "output_text"))
    return content or ""


def _token_usage(body: Mapping[str, Any]) -> dict[str, int]:
    usage = body.get("usage") or {}
    counts = count_of(usage.get("prompt_tokens")), count_of(usage.get("completion_tokens"))
    return {"input_tokens": counts[0], "output_tokens": counts[1]} if any(counts) else {}


def _error_of(text: str) -> Mapping[str, Any]:
    """Return the error object of a body: OpenAI's, or the flat one that some servers send."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    error = body.get("error", body) if isinstance(body, dict) else {}
    return error if isinstance(error, dict) else {"message": str(error)}
