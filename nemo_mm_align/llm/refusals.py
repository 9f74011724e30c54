"""The class of failure of an error status: is it this request that is refused, or does the service work for nobody?"""

from __future__ import annotations

import re

from nemo_mm_align.llm.failures import FailureKind

WRONG_KEY = re.compile(r"(?i)API_KEY_INVALID|invalid_api_key|api[ _]key (?:not valid|expired)|incorrect api key")

REFUSAL = re.compile(
    r"""(?ix) FAILED_PRECONDITION | insufficient[_ ](?:quota|balance|credits?|funds) | credit[ ]balance | billing
    | arrearage | payment[ ]required | unsupported_country | (?:user|your)[ ](?:location|country|region)
    | (?:location|country|region|territory)[^.]{0,30}[ ]not[ ](?:supported|available|allowed) | SERVICE_DISABLED
    | not[ ](?:supported|available)[ ]in[ ]your[ ](?:location|country|region|territory)
    | (?:account|organi[sz]ation|project|workspace)[^.]{0,40}[ _](?:suspended|deactivated|terminated|disabled|restricted)
    | api[^.]{0,80}(?:is[ ]disabled|has[ ]not[ ]been[ ]used|is[ ]not[ ]enabled)"""
)
"""What services say when they work for nobody with this account or from this place, under many statuses."""

UNPAID = re.compile(r"(?i)insufficient_quota|insufficient balance|billing_hard_limit_reached|billing_not_active")
"""The same under 429, where other words about quotas and billing only ask for patience."""

SAMPLE_STATUS = frozenset({400, 413, 414, 422})
"""Statuses by which a service refuses this request and not others: it is malformed, too long, too large."""

IMAGE_FAULT = re.compile(r".+: (?:no such image|cannot be read|not a file but|neither PNG|[\d,]+ bytes)", re.DOTALL)
"""What is said of an image that was not as it should be when a call was to be made."""

READ_ERROR = 4000
"""Characters of an error that are looked at for its class."""


def kind_of_error(status: int, text: str) -> FailureKind:
    """Return the class of failure of a reply with an error status.

    Args:
        status: of HTTP. What is neither the request's fault nor known to pass (404, a redirect, ...) is the service's or
            the configuration's: ``refused``.
        text: what the service says: message, codes or the whole body.
    """
    text = text[:READ_ERROR]
    if status == 429:
        return "refused" if UNPAID.search(text) else "rate_limit"
    if status in (408, 504):
        return "timeout"
    if status in (409, 425) or status >= 500 or status < 300:
        return "server"
    if status in (401, 403, 407) or (status == 400 and WRONG_KEY.search(text)):
        return "refused" if REFUSAL.search(text) else "auth"
    if status in SAMPLE_STATUS:
        return "refused" if REFUSAL.search(text) else "bad_request"
    return "refused"


def kind_of_recorded(kind: str, message: str, raw: str) -> str:
    """Return the class of a failure that stands in a ledger.

    Ledgers of earlier versions hold refusals of the service, images that were not there and unknown words for a natural
    end as the sample's own faults; their lines tell which they are.
    """
    if kind == "bad_request":
        status = re.match(r"HTTP (\d{1,3}): ", message)
        if status:
            return kind_of_error(int(status[1]), f"{message} {raw[:READ_ERROR]}")
        return "input" if IMAGE_FAULT.match(message) else kind
    if kind == "unparsable" and (ending := re.fullmatch(r"the reply ended with ([a-z_]+)", message)):
        return kind if ending[1] in ("tool_calls", "function_call") else "server"
    return kind
