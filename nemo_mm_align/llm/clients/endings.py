"""Why a reply ended, in the words that services have for it."""

from __future__ import annotations

import re

from nemo_mm_align.llm.failures import FailureKind

CUT = re.compile(r"(?i)length|max_?(?:output_?|new_?|completion_?)?tokens?|context_window")
FILTERED = re.compile(r"(?i)filter|safety|sensitive|refusal|blocklist|prohibited|moderation|recitation")
TOOLS = re.compile(r"(?i)tool|function_call")
BROKEN_OFF = re.compile(r"(?i)error|abort|cancel|timeout|insufficient|overload|interrupt|\bfail")
"""Words for ends that are not natural. For a natural one servers have many (``stop``, ``eos_token``, ``end_turn``, ...)."""


def failure_of_ending(reason: str) -> tuple[FailureKind | None, str]:
    """Return kind and message of the failure for an end that is not natural; (None, "") for any other word."""
    if FILTERED.search(reason):
        return "safety", f"the reply was blocked ({reason})"
    if CUT.search(reason):
        return "truncated", f"the reply was cut at the token limit ({reason}); raise judge.max_output_tokens"
    if TOOLS.search(reason):
        return "unparsable", f"the reply ended with {reason}"
    if BROKEN_OFF.search(reason):
        return "server", f"the reply was broken off by the service ({reason})"
    return None, ""
