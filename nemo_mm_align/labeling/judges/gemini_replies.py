"""What the Gemini service replies, as its REST JSON: text, token counts, and the classes of `JudgeFailure`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nemo_mm_align.labeling.judge import FailureKind, JudgeFailure, JudgeReply, JudgeRequest
from nemo_mm_align.labeling.judges.http_failures import RAW_LIMIT, kind_of_status, retry_after
from nemo_mm_align.labeling.parsing import parse_reply

SAFETY_REASONS = frozenset({"SAFETY", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"})
NO_REASON = ("", "STOP", "FINISH_REASON_UNSPECIFIED")

HTTP_OF_RPC = {3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 400, 13: 500, 14: 503, 16: 401}
"""Batch files report errors by the codes of google.rpc.Code."""


def read_reply(response: Mapping[str, Any], request: JudgeRequest) -> JudgeReply:
    """Return the judgement in a ``GenerateContentResponse``; raise `JudgeFailure` where it holds none."""
    usage = token_usage(response)
    kind, message = _classify(response)
    if kind is not None:
        raw = json.dumps(response, ensure_ascii=False)
        raise JudgeFailure(kind, message, raw=raw[:RAW_LIMIT], usage=usage)
    text = reply_text(response)
    try:
        parsed = parse_reply(text, request.schema, len(request.candidates), request.want_reference)
    except JudgeFailure as failure:
        failure.usage = usage
        raise
    version = str(response.get("modelVersion", ""))
    return JudgeReply(parsed.ratings, parsed.reasoning, parsed.reference_answer, text, usage, version)


def reply_text(response: Mapping[str, Any]) -> str:
    """Return the text of the first reply, all parts joined but thoughts; "" where there is none."""
    candidates = response.get("candidates") or [{}]
    parts = (candidates[0].get("content") or {}).get("parts") or []
    return "".join(part.get("text", "") for part in parts if not part.get("thought"))


def token_usage(response: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens that the service counted. What is neither question nor answer was spent on thinking."""
    usage = response.get("usageMetadata") or {}
    asked = int(usage.get("promptTokenCount") or 0)
    total = max(int(usage.get("totalTokenCount") or 0), asked + int(usage.get("candidatesTokenCount") or 0))
    return {"input_tokens": asked, "output_tokens": total - asked} if total else {}


def failure_of_status(code: int, message: str, raw: str, headers: Mapping[str, str], details: Any) -> JudgeFailure:
    """Return the failure for a reply with an error status; texts without the key are the caller's duty."""
    wrong_key = code == 400 and "API_KEY_INVALID" in raw
    kind: FailureKind = "auth" if wrong_key else kind_of_status(code)
    return JudgeFailure(kind, f"HTTP {code}: {message}", raw[:RAW_LIMIT], retry_after(headers, details))


def read_batch_reply(line: Mapping[str, Any], request: JudgeRequest) -> JudgeReply:
    """Return the judgement in a line of a batch's result file; raise `JudgeFailure` where it holds none."""
    response, error = line.get("response"), line.get("error") or line.get("status")
    if isinstance(response, Mapping) and response:
        return read_reply(response, request)
    raw = json.dumps(line, ensure_ascii=False)
    if isinstance(error, Mapping):
        code = int(error.get("code") or 13)
        details = error.get("details")
        raise failure_of_status(HTTP_OF_RPC.get(code, code), str(error.get("message", "")), raw, {}, details)
    raise JudgeFailure("server", "the line holds neither a response nor an error", raw[:RAW_LIMIT])


def _classify(response: Mapping[str, Any]) -> tuple[FailureKind | None, str]:
    blocked = (response.get("promptFeedback") or {}).get("blockReason")
    if blocked and blocked != "BLOCK_REASON_UNSPECIFIED":
        return "safety", f"the prompt was blocked ({blocked})"
    if not response.get("candidates"):
        return "server", "the reply holds no candidate"
    reason = response["candidates"][0].get("finishReason") or ""
    if reason in SAFETY_REASONS:
        return "safety", f"the reply was blocked ({reason})"
    if reason == "RECITATION":
        return "recitation", "the reply was stopped as a recitation"
    if reason == "MAX_TOKENS":
        return "truncated", "the reply was cut at the token limit; raise judge.max_output_tokens"
    if reason not in NO_REASON:
        return "unparsable", f"the reply ended with {reason}"
    return None, ""
