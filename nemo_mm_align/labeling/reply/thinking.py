"""A reply without the model's thinking: numbers that stand in it are drafts, never a judgement.

Servers hand thinking over in fields of its own, or leave it in the text between marks that differ from model to model. Where
its end is missing all that follows is thinking; where its beginning is missing (it stood in the prompt) all before it is.
"""

from __future__ import annotations

import json
import re

WORDS = (
    r"(?:ant|seed:|gemma:)?(?:think(?:ing)?|thoughts?|thought_process|reason(?:ing)?|reflection|analysis|scratch_?pad|cot|"
    r"chain_of_thought|inner_monologue|internal_monologue|monologue|deliberation|draft)"
)
OPENING = rf"""
    <{WORDS}(?:\s[^<>]{{0,200}})?> | \[think(?:ing)?\] | ◁think▷ | <\|(?:begin_of_|start_)?(?:{WORDS}|inner_prefix)\|>
    | <\|channel\|?>\s*(?:thoughts?|analysis|commentary)\b(?:[^<]{{0,80}}<\|message\|>)? | <unused94>(?:thought)?
"""
CLOSING = rf"""
    </\s*{WORDS}\s*> | \[/\s*think(?:ing)?\s*\] | ◁/think▷ | <\|(?:end_of_|end_|/)(?:{WORDS})\|> | <\|inner_suffix\|>
    | <channel\|> | <unused95> | <\|channel\|?>\s*(?:final|answer)\b(?:[^<]{{0,80}}<\|message\|>)?
"""
MARK = re.compile(rf"(?P<open>{OPENING})|(?P<close>{CLOSING})", re.VERBOSE | re.IGNORECASE)
BARE_CHANNELS = re.compile(r"\s*(?:analysis|commentary)(?=[A-Z{\"'])")
"""Channels whose marks a server took out as special tokens: ``analysisWe need ...assistantfinal{...``."""

MOST_ATTEMPTS = 8


def without_thinking(text: str) -> str:
    """Return the text with all thinking taken out; "" where nothing else is there.

    A text that is one JSON object is returned as it is: marks inside its strings are spoken of, not used.
    """
    if is_object(text):
        return text
    if BARE_CHANNELS.match(text):
        return text.rpartition("assistantfinal")[2] if "assistantfinal" in text else ""
    kept, position, inside, attempts = list[str](), 0, False, 0
    for mark in MARK.finditer(text):
        if mark["open"]:
            if not inside:
                kept.append(text[position : mark.start()])
            inside = True
            continue
        if not inside:
            kept.clear()
        inside, position, attempts = False, mark.end(), attempts + 1
        if attempts <= MOST_ATTEMPTS and is_object(text[position:]):
            return text[position:]
    if not inside:
        kept.append(text[position:])
    return "\n".join(kept) if len(kept) > 1 else "".join(kept)


def is_object(text: str) -> bool:
    """Whether a text is one JSON object and nothing else, a code block around it aside."""
    bare = text.strip()
    if bare.startswith("```"):
        bare = bare.removeprefix("```").removeprefix("json").removesuffix("```").strip()
    if not (bare.startswith("{") and bare.endswith("}")):
        return False
    try:
        return isinstance(json.loads(bare, strict=False), dict)
    except (ValueError, RecursionError):
        return False
