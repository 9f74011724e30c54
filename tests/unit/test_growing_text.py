"""Text that grows token by token, and texts that end it, with tokenizers whose tokens are not texts of their own."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models

from nemo_mm_align.inference.growing_text import Decode, GrowingText, StopTexts

SPECIAL = 300


def letters(ids: list[int]) -> str:
    return "".join(map(chr, ids))


def byte_fallback() -> Tokenizer:
    """As of LLaMA: words with a blank mark, all else in bytes, a broken run of which becomes replacement characters."""
    words = {f"<0x{number:02X}>": number for number in range(256)} | {"\u2581a": 256, "\u2581END": 257, "END": 258}
    tokenizer = Tokenizer(models.BPE(words, [], unk_token="<0x00>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def llama() -> Decode:
    tokenizer = byte_fallback()
    return lambda ids: tokenizer.decode([token for token in ids if token != SPECIAL])


TEXTS = ["\u1780\u17d2\u179a\u1798 x", "plain", "\U0001f642\U0001f643 \u00fc\n\nnew", "\n\n", "a\tb"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("words", [[], [256], [256, 256]])
def test_text_grows_to_what_all_tokens_say(text: str, words: list[int]) -> None:
    decode, ids = llama(), [*words, *text.encode(), *words]
    growing, pieces = GrowingText(decode), []
    for end in range(1, len(ids) + 1):
        pieces.append(growing.grow(ids[:end]))
        assert "\ufffd" not in growing.text
    assert "".join(pieces) == growing.text == decode(ids)
    assert len([piece for piece in pieces if piece]) >= len(text)


def test_an_unfinished_character_is_held_back() -> None:
    growing, ids = GrowingText(llama()), [256, *"\u1780".encode()]
    assert [growing.grow(ids[:end]) for end in range(1, 5)] == ["a", "", "", "\u1780"]


def cut(stops: list[str], ids: list[int], decode: Decode) -> tuple[int, str] | None:
    """Number of tokens after which an answer ends, and its text."""
    watched = StopTexts(stops, decode)
    texts = ((end, watched.before(ids[:end])) for end in range(1, len(ids) + 1))
    return next(((end, text) for end, text in texts if text is not None), None)


@pytest.mark.parametrize(
    ("stops", "found"),
    [
        (["END"], (6, "abc")),
        (["END", "bcE"], (4, "a")),
        (["c"], (3, "ab")),
        (["\n\n"], None),
        (["D", "E"], (4, "abc")),
        (["a"], (1, "")),
        ([" of it"], (12, "abcEND")),
    ],
)
def test_an_answer_ends_before_its_first_stop_text(stops: list[str], found: tuple[int, str] | None) -> None:
    assert cut(stops, [ord(letter) for letter in "abcEND of it"], letters) == found


@pytest.mark.parametrize("count", range(1, 12))
def test_behind_characters_of_several_bytes(count: int) -> None:
    """A look at the last bytes alone would begin within a character, and see nothing but replacement characters."""
    text = "\u1780" * count
    ids = [*(text + "\n\n").encode(), *b"more"]
    assert cut(["\n\n"], ids, llama()) == (3 * count + 2, text)


def test_tokens_without_text_do_not_hide_it() -> None:
    ids = [256, ord("E"), *[SPECIAL] * 20, ord("N"), *[SPECIAL] * 20, ord("D"), 256]
    assert cut(["END"], ids, llama()) == (44, "a")


def test_found_late_within_a_token_and_without_decoding_all_again() -> None:
    ids, decoded = list(range(300)), []

    def decode(some: list[int]) -> str:
        decoded.append(len(some))
        return "".join(f"<{token}>" for token in some)

    assert cut(["9><27", "zz"], ids, decode) == (271, "".join(f"<{token}>" for token in range(269)) + "<26")
    assert max(decoded) <= 2
