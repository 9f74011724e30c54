"""What is streamed of an answer is the whole answer, piece by piece: blanks, stop texts, characters of several bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nemo_mm_align.inference.growing_text import StopTexts
from nemo_mm_align.inference.rows import TokenLogprobs
from nemo_mm_align.serving.streamed_text import StreamedText, begun
from nemo_mm_align.serving.token_texts import TokenTexts

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
"""A vocabulary of the 256 bytes, as byte-level tokenizers write them."""


@pytest.fixture(scope="module")
def bytewise() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE({byte: place for place, byte in enumerate(BYTES)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def streamed(ids: Sequence[int], stop: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> tuple[list[str], str]:
    """Return the pieces, and the whole text as an answer that is not streamed has it."""

    def decode(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))

    text, stops, pieces, before = StreamedText(decode, stop), StopTexts(stop or ("\0",), decode), list[str](), None
    for place, token in enumerate(ids):
        before = stops.before(ids[: place + 1])
        if before is not None or place + 1 == len(ids):
            break
        pieces.append(text.add(token))
    whole = (decode(ids) if before is None else before).strip()
    return [*pieces, text.end(whole)], whole


def test_white_space_at_the_ends_is_never_sent(bytewise: PreTrainedTokenizerFast) -> None:
    pieces, whole = streamed(bytewise("\n a b \n").input_ids, (), bytewise)
    assert pieces == ["", "", "a", "", " b", "", ""] and whole == "a b"


def test_what_may_become_a_stop_text_waits(bytewise: PreTrainedTokenizerFast) -> None:
    pieces, whole = streamed(bytewise("xENxENDy").input_ids, ("END",), bytewise)
    assert pieces == ["x", "", "", "ENx", "", "", ""] and whole == "xENx"
    assert begun("abcEN", ["END", "Nope"]) == 2 and begun("abc", ["END"]) == 0 and begun("abc", []) == 0


def test_a_character_of_several_tokens_comes_as_one(bytewise: PreTrainedTokenizerFast) -> None:
    pieces, whole = streamed(bytewise("aé€b").input_ids, (), bytewise)
    assert pieces == ["a", "", "é", "", "", "€", "b"] and whole == "aé€b"
    cut, whole = streamed(bytewise("a€").input_ids[:-1], (), bytewise)
    assert cut == ["a", "", "�"] and whole == "a�"


def test_random_texts_are_streamed_as_they_are(bytewise: PreTrainedTokenizerFast) -> None:
    rng = random.Random(0)
    ended = 0
    for _ in range(300):
        ids = bytewise("".join(rng.choices(" \nabé", k=rng.randint(1, 30)))).input_ids
        stop = ["".join(rng.choices(" ab", k=rng.randint(1, 3))) for _ in range(rng.randint(0, 2))]
        pieces, whole = streamed(ids, stop, bytewise)
        assert "".join(pieces) == whole
        ended += whole != bytewise.decode(ids).strip()
    assert ended > 100


@pytest.fixture
def words() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2, "##c": 3}, unk_token="<s>"))
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def test_a_token_without_text_loses_no_blank(words: PreTrainedTokenizerFast) -> None:
    def decode(ids: Sequence[int]) -> str:
        return str(words.decode([index for index in ids if index], clean_up_tokenization_spaces=False))

    text = StreamedText(decode)
    assert [text.add(token) for token in (0, 1, 0, 0, 2, 3)] == ["", "a", "", "", " b", "c"]
    assert text.end(decode([1, 2, 3])) == ""


def test_bytes_of_tokens_add_up_to_the_text(bytewise: PreTrainedTokenizerFast, words: PreTrainedTokenizerFast) -> None:
    texts = TokenTexts(bytewise)
    assert b"".join(map(texts.bytes_of, bytewise(" é€\n").input_ids)) == " é€\n".encode()
    own = TokenTexts(words)
    assert [own.bytes_of(token) for token in range(4)] == [b"<s>", b" a", b" b", b"c"]
    found = texts.logprobs([TokenLogprobs(bytewise("a").input_ids[0], -0.5, ((bytewise("é").input_ids[0], -1.5),))])
    assert found["content"] == [
        {
            "token": "a",
            "logprob": -0.5,
            "bytes": [97],
            "top_logprobs": [{"token": "�", "logprob": -1.5, "bytes": [0xC3]}],
        }
    ]


def test_byte_fallback_and_word_marks_of_sentencepiece() -> None:
    tokenizer = Tokenizer(models.BPE({"<0xE2>": 0, "\u2581the": 1, "s": 2}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    texts = TokenTexts(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert [texts.bytes_of(token) for token in range(3)] == [b"\xe2", b" the", b"s"]
