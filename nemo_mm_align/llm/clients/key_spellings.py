"""The spellings under which a key may come back: escaped, URL-encoded, in base64 or hex, split over lines."""

from __future__ import annotations

import base64
import functools
import re

SPLIT = r"""(?:[\s"'+|>,\\]|\\[nrt]){0,40}"""
"""What may stand inside a key that is split: line breaks and indentation, as they are or escaped, quotes, a plus."""

SHORTEST_SECRET = 8
SHORTEST_SECRET_WORD = 16

DUMMY_WORDS = frozenset(
    re.findall(
        r"\w+",
        "abc abc123 anything api apikey bearer changeme default demo dummy empty example fake foo here key lm llama llamacpp "
        "local localhost my needed no nokey none not null ollama openai password placeholder required secret server sglang "
        "sk string studio test testing text token unused vllm whatever your",
    )
)
"""What stands in place of a key where a server on the own machine wants none, alone or joined: ``sk-no-key-required``."""


def is_secret(key: str) -> bool:
    """Whether a key is long and odd enough to be one: a short or common word would be found in every other text."""
    parts = [part for part in re.split(r"[\W_]+", key.lower()) if part]
    if len(key) < SHORTEST_SECRET or all(_is_dummy(part) for part in parts):
        return False
    is_word = re.fullmatch(r"[A-Za-z]?[a-z]+(?:[-_.][A-Za-z]?[a-z]+)*|[A-Z_.-]+", key) is not None
    return not is_word or len(key) >= SHORTEST_SECRET_WORD


def without_key(text: str, key: str) -> str:
    """Return a text with the key taken out in any of its spellings, in time linear in the text.

    Case makes no difference: names of hosts come back in lower case.
    """
    data = text.encode("utf-8", "surrogatepass")
    for pattern in _spellings(key):
        data = _without(data, pattern)
    return data.decode("utf-8", "surrogatepass")


def _without(data: bytes, pattern: re.Pattern[bytes]) -> bytes:
    kept, end = list[bytes](), 0
    for match in pattern.finditer(data.lower()):  # of bytes, which keeps every place where it is
        kept += [data[end : match.start()], b"[API key]"]
        end = match.end()
    return b"".join([*kept, data[end:]]) if kept else data


@functools.lru_cache(maxsize=8)
def _spellings(key: str) -> list[re.Pattern[bytes]]:
    """Return a pattern per spelling: one for all would not begin with a fixed character, and be ten times as slow."""
    encoded = key.encode()
    texts = dict.fromkeys(map(str.lower, [key, encoded.hex(), *_in_base64(encoded)]))
    return [re.compile(SPLIT.join(map(_character, text)).encode()) for text in texts]


def _is_dummy(part: str) -> bool:
    return part in DUMMY_WORDS or len(set(part)) == 1 or (part.isdigit() and len(part) <= 6)


def _in_base64(encoded: bytes) -> list[str]:
    """Return the characters of base64 that the bytes alone decide, for each place in a longer text that they can have."""
    found = []
    for before in range(3):
        text = base64.b64encode(b"\0" * before + encoded).decode()
        core = text[-(-8 * before // 6) : (before + len(encoded)) * 8 // 6]
        found += [core, core.replace("+", "-").replace("/", "_")]
    return found


def _character(character: str) -> str:
    """Return a pattern for a character: itself, or escaped as JSON, a URL or HTML may have it, also several times."""
    code, itself = ord(character), re.escape(character)
    codes = {code, ord(character.upper())}
    digits, numbers = "|".join(f"{each:02x}" for each in codes), "|".join(map(str, codes))
    escaped = rf"\\\\{{0,7}}(?:{itself}|u0{{0,6}}(?:{digits})|x(?:{digits}))"
    return rf"(?:{itself}|{escaped}|%(?:25){{0,8}}(?:{digits})|&\#(?:x0{{0,6}}(?:{digits})|0{{0,6}}(?:{numbers}));)"
