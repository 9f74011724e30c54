"""What the Gemini service replies, as its REST JSON: text, token counts, and the classes of `CallFailure`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from nemo_mm_align.llm.clients.http_failures import count_of, retry_after
from nemo_mm_align.llm.clients.probabilities import most_likely_first
from nemo_mm_align.llm.failures import CallFailure, FailureKind
from nemo_mm_align.llm.question import Answer
from nemo_mm_align.llm.refusals import kind_of_error

SAFETY_REASON = re.compile("SAFETY|BLOCKLIST|PROHIBITED|SPII")
"""In the names of reasons for which a reply was blocked; images have names of their own (IMAGE_PROHIBITED_CONTENT)."""

NO_REASON = ("", "STOP", "FINISH_REASON_UNSPECIFIED")

HTTP_OF_RPC = {3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 400, 13: 500, 14: 503, 16: 401}
"""Batch files report errors by the codes of google.rpc.Code."""

FAILED_PRECONDITION = 9


def read_reply(response: Mapping[str, Any], may_be_cut: bool = False) -> Answer:
    """Return the answer in a ``GenerateContentResponse``; raise `CallFailure` where it holds none.

    Args:
        may_be_cut: the end of the tokens is a natural one: the question had a limit of its own.
    """
    try:
        usage, (kind, message), text = token_usage(response), _classify(response), reply_text(response)
        logprobs = _first_token(response)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CallFailure("server", f"not a reply of the service ({error!r})", _dump(response)) from None
    if kind is not None and not (may_be_cut and kind == "truncated"):
        raise CallFailure(kind, message, _dump(response), usage=usage)
    return Answer(text, usage, str(response.get("modelVersion", "")), logprobs)


def _first_token(response: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """Return the alternatives of the first token; none where the service says nothing."""
    candidates = response.get("candidates") or [{}]
    steps = (candidates[0].get("logprobsResult") or {}).get("topCandidates") or ()
    alternatives = steps[0].get("candidates") or () if steps else ()
    return most_likely_first((one.get("token"), one.get("logProbability")) for one in alternatives)


def reply_text(response: Mapping[str, Any]) -> str:
    """Return the text of the first reply, all parts joined but thoughts; "" where there is none."""
    candidates = response.get("candidates") or [{}]
    parts = (candidates[0].get("content") or {}).get("parts") or []
    return "".join(part.get("text") or "" for part in parts if part and not part.get("thought"))


def as_sent(response: dict[str, Any], sent: Any) -> dict[str, Any]:
    """Return a reply with the texts and the reasons of its end as they were sent.

    A client leaves out what it does not know: that a part is a thought, names of new reasons.
    """
    candidates, feedback = sent.get("candidates") or [], sent.get("promptFeedback") or {}
    for candidate, original in zip(response.get("candidates") or [], candidates, strict=False):
        if isinstance(original.get("finishReason"), str):
            candidate["finishReason"] = original["finishReason"]
        if isinstance(original.get("content"), dict):
            candidate["content"] = original["content"]
        if isinstance(original.get("logprobsResult"), dict):
            candidate["logprobsResult"] = original["logprobsResult"]
    if isinstance(feedback.get("blockReason"), str):
        response["promptFeedback"] = {**(response.get("promptFeedback") or {}), "blockReason": feedback["blockReason"]}
    return response


def token_usage(response: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens that the service counted. What is neither question nor answer was spent on thinking."""
    usage = response.get("usageMetadata") or {}
    asked = count_of(usage.get("promptTokenCount"))
    total = max(count_of(usage.get("totalTokenCount")), asked + count_of(usage.get("candidatesTokenCount")))
    return {"input_tokens": asked, "output_tokens": total - asked} if total else {}


def failure_of_status(code: int, message: str, raw: str, headers: Mapping[str, str], details: Any) -> CallFailure:
    """Return the failure for a reply with an error status; `raw` is its body."""
    return CallFailure(
        kind_of_error(code, f"{message} {raw}"), f"HTTP {code}: {message}", raw, retry_after(headers, details)
    )


def read_batch_reply(line: Mapping[str, Any]) -> Answer:
    """Return the answer in a line of a batch's result file; raise `CallFailure` where it holds none."""
    response, error = line.get("response"), line.get("error") or line.get("status")
    if isinstance(response, Mapping) and response:
        return read_reply(response)
    raw = _dump(line)
    if isinstance(error, Mapping):
        code = count_of(error.get("code")) or 13
        text = f"{error.get('message', '')}{' FAILED_PRECONDITION' if code == FAILED_PRECONDITION else ''}"
        raise failure_of_status(HTTP_OF_RPC.get(code, code), text, raw, {}, error.get("details"))
    raise CallFailure("server", "the line holds neither a response nor an error", raw)


def _dump(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


def _classify(response: Mapping[str, Any]) -> tuple[FailureKind | None, str]:
    blocked = (response.get("promptFeedback") or {}).get("blockReason")
    if blocked and blocked != "BLOCK_REASON_UNSPECIFIED":
        return "safety", f"the prompt was blocked ({blocked})"
    if not response.get("candidates"):
        return "server", "the reply holds no candidate"
    reason = str(response["candidates"][0].get("finishReason") or "")
    return _ending(reason) if reason not in NO_REASON else (None, "")


def _ending(reason: str) -> tuple[FailureKind, str]:
    """Return the failure for an end of a reply that is not the natural one; names that are not known yet are none."""
    if SAFETY_REASON.search(reason):
        return "safety", f"the reply was blocked ({reason})"
    if "RECITATION" in reason:
        return "recitation", f"the reply was stopped as a recitation ({reason})"
    if reason == "MAX_TOKENS":
        return "truncated", "the reply was cut at the token limit; raise judge.max_output_tokens"
    return "unparsable", f"the reply ended with {reason}"
