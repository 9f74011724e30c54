"""A word-level tokenizer for the miniature: every word of the world, the chat template and the attribute line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from nemo_mm_align.miniature import lexicon
from nemo_mm_align.miniature.sources import captions, charts, easyvqa, text
from nemo_mm_align.schema.attributes import STEERING_LINE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
"""Ids 0 to 4 in this order."""

_TOKEN = r"[A-Za-z]+|[0-9]|\n|[^\sA-Za-z0-9]"
_TIGHT_BEFORE = (".", ",", "?", ":")


def _texts() -> Iterator[str]:
    """Every text that the world can show to a model, with slots filled by the word lists that follow."""
    for wordings in (text.WORDINGS, easyvqa.WORDINGS, charts.WORDINGS):
        for splits in wordings.values():
            for variants in splits.values():
                yield from (re.sub(r"\{\w\}", "", wording) for wording in variants)
    yield from captions.WORDINGS
    yield from (*lexicon.COLOURS, *lexicon.SHAPES, *lexicon.POLARITIES, *lexicon.THINGS, *text.STEERING_WORDS)
    yield from (*lexicon.TIER_OF_WORD, *lexicon.OPPOSITES, *lexicon.OPPOSITES.values())
    yield from (*lexicon.SHOWING, *lexicon.TALLER, *lexicon.TALLEST, *lexicon.SHORTEST)
    yield from (opener for openers in lexicon.OPENERS.values() for opener in openers)
    yield "there is a no it its the of so answer bar shape none 0 1 2 3 4 5 6 7 8 9"
    yield "USER: ASSISTANT: . , ? : - \n " + STEERING_LINE.replace("{attributes}", "")


def vocabulary() -> list[str]:
    """All tokens in order of id: the special ones, then the words sorted."""
    words = {token for line in _texts() for token in re.findall(_TOKEN, line)}
    return [*SPECIAL_TOKENS, *sorted(words)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer; decoding gives back the world's texts exactly (one space between words)."""
    from transformers import PreTrainedTokenizerFast

    tokens = vocabulary()
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(Regex(" +"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_TOKEN), behavior="isolated"),
            pre_tokenizers.Split(Regex(" +"), behavior="removed"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = _decoder()
    pad, bos, eos, unk, image = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        unk_token=unk,
        additional_special_tokens=[image],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _decoder() -> decoders.Decoder:
    """Join with spaces, then take back those that the world's texts do not have."""
    tight = [(f" {mark}", mark) for mark in _TIGHT_BEFORE]
    tight += [(" \n ", "\n"), (" \n", "\n"), ("\n ", "\n"), (" - ", "-"), ("<image> ", "<image>"), (" </s>", "</s>")]
    labels = text.STEERING_WORDS
    tight += [(f"{label}: ", f"{label}:") for label in labels] + [(f", {label}:", f",{label}:") for label in labels]
    steps = [decoders.Replace(before, after) for before, after in tight]
    return decoders.Sequence([decoders.WordPiece(prefix="##", cleanup=False), decoders.Fuse(), *steps])
