"""What an OpenAI-compatible service replies: text, token counts, and the classes of `JudgeFailure`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nemo_mm_align.labeling.judge import FailureKind, JudgeFailure, JudgeReply, JudgeRequest
from nemo_mm_align.labeling.judges.http_failures import RAW_LIMIT, kind_of_status, retry_after
from nemo_mm_align.labeling.parsing import parse_reply

BLOCKED = frozenset({"content_filter", "content_policy_violation"})
UNPAID = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


def read_reply(text: str, request: JudgeRequest) -> JudgeReply:
    """Return the judgement in the body of a reply with status 200; raise `JudgeFailure` where it holds none."""
    try:
        body = json.loads(text)
        return _read(body, request)
    except (ValueError, RecursionError) as error:
        raise JudgeFailure("server", f"the reply is no JSON ({error})", text[:RAW_LIMIT]) from None
    except (AttributeError, KeyError, TypeError, IndexError):
        raise JudgeFailure("server", "the reply is no chat completion", text[:RAW_LIMIT]) from None


def read_batch_reply(line: Mapping[str, Any], request: JudgeRequest) -> JudgeReply:
    """Return the judgement in a line of a batch's output or error file; raise `JudgeFailure` where it holds none."""
    raw = json.dumps(line, ensure_ascii=False)
    response, error = line.get("response"), line.get("error")
    if isinstance(response, Mapping):
        code, body = int(response.get("status_code") or 0), json.dumps(response.get("body"), ensure_ascii=False)
        if code == 200:
            return read_reply(body, request)
        raise failure_of_http(code or 500, body, {})
    message = error.get("message", "") if isinstance(error, Mapping) else "neither a response nor an error"
    code_name = error.get("code", "") if isinstance(error, Mapping) else ""
    # Requests that a batch had no time for, or that were cancelled with it, were not asked at all.
    raise JudgeFailure("server", f"{code_name}: {message}".removeprefix(": "), raw[:RAW_LIMIT])


def failure_of_http(status: int, text: str, headers: Mapping[str, str]) -> JudgeFailure:
    """Return the failure for a reply with another status than 200; `text` holds no key any more."""
    error = _error_of(text)
    code = str(error.get("code") or "")
    kind: FailureKind = kind_of_status(status)
    if code in BLOCKED:
        kind = "safety"
    elif code in UNPAID:
        kind = "auth"  # asking again does not help until somebody pays
    message = str(error.get("message") or text[:200]) if status >= 400 else f"moved to {headers.get('Location', '?')}"
    return JudgeFailure(kind, f"HTTP {status}: {message}", text[:RAW_LIMIT], retry_after(headers))


def _read(body: Mapping[str, Any], request: JudgeRequest) -> JudgeReply:
    usage = _token_usage(body)
    kind, message = _classify(body)
    if kind is not None:
        raise JudgeFailure(kind, message, json.dumps(body, ensure_ascii=False)[:RAW_LIMIT], usage=usage)
    text = _text(body["choices"][0]["message"].get("content"))
    try:
        parsed = parse_reply(text, request.schema, len(request.candidates), request.want_reference)
    except JudgeFailure as failure:
        failure.usage = usage
        raise
    version = str(body.get("model") or "")
    return JudgeReply(parsed.ratings, parsed.reasoning, parsed.reference_answer, text, usage, version)


def _classify(body: Mapping[str, Any]) -> tuple[FailureKind | None, str]:
    if not body.get("choices"):
        error = body.get("error")  # some proxies report errors with status 200
        return "server", f"the reply holds no choice{f': {error}' if error else ''}"
    choice = body["choices"][0]
    reason, refusal = choice.get("finish_reason"), choice["message"].get("refusal")
    if reason == "content_filter" or refusal:
        return "safety", f"the reply was blocked ({refusal or reason})"
    if reason == "length":
        return "truncated", "the reply was cut at the token limit; raise judge.max_output_tokens"
    if reason not in ("stop", None):
        return "unparsable", f"the reply ended with {reason}"
    return None, ""


def _text(content: Any) -> str:
    """Return the text of a message; some services send it in parts."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if part.get("type") == "text")
    return content or ""


def _token_usage(body: Mapping[str, Any]) -> dict[str, int]:
    usage = body.get("usage") or {}
    counts = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    return {"input_tokens": counts[0], "output_tokens": counts[1]} if any(counts) else {}


def _error_of(text: str) -> Mapping[str, Any]:
    """Return the error object of a body: OpenAI's, or the flat one that some servers send."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    error = body.get("error", body) if isinstance(body, dict) else {}
    return error if isinstance(error, dict) else {"message": str(error)}
