"""Tokenisation: conversations into token ids and a loss mask, image placeholders expanded, the attribute turn appended.

The whole text is tokenised once. Which tokens belong to an answer follows from character offsets, so that no token
boundary depends on where a turn was cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate, with_attributes
from nemo_mm_align.schema.examples import PreferenceExample
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["ChatTemplate", "EncodedSequence", "Encoder", "add_image_token", "with_attributes"]


@dataclass
class EncodedSequence:
    """Token ids and, of the same length, which of them are predicted with loss (answers and their stop tokens)."""

    ids: list[int]
    loss_mask: list[bool]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_answer_tokens(self) -> int:
        """Number of tokens that are predicted with loss."""
        return sum(self.loss_mask)

    @property
    def prompt_length(self) -> int:
        """Number of tokens before the first one with loss."""
        return self.loss_mask.index(True) if True in self.loss_mask else len(self.ids)


def add_image_token(tokenizer: PreTrainedTokenizerFast) -> int:
    """Make ``<image>`` a special token of `tokenizer` where it is not one yet; return its id.

    A new token's id is ``len(tokenizer)`` before the call: the embedding needs a row for it.
    """
    if IMAGE_PLACEHOLDER not in tokenizer.get_added_vocab():
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [IMAGE_PLACEHOLDER]}, replace_additional_special_tokens=False
        )
    return int(tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER))


class Encoder:
    """Turns conversations into token ids for one tokenizer, template and number of tokens per image.

    Args:
        tokenizer: a fast tokenizer that has ``<image>`` and the template's stop text as special tokens.
        template: the chat template.
        image_token_id: id of ``<image>``.
        tokens_per_image: copies of `image_token_id` that stand for one image (576 for LLaVA-1.5).
        schema: the attribute schema, needed where attributes are given.

    Attributes:
        stop_id: id of the token that ends an answer.
        pad_id: id to pad with (the tokenizer's own, else `stop_id`).
        add_bos: whether a bos token is put first: where the tokenizer's own convention does so and the template's text
            does not already begin with it.

    Raises:
        UserError: the tokenizer is not a fast one, or lacks one of the special tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        template: ChatTemplate,
        image_token_id: int,
        tokens_per_image: int,
        schema: AttributeSchema | None = None,
    ) -> None:
        if not tokenizer.is_fast:
            raise UserError(f"{type(tokenizer).__name__} is not a fast tokenizer; load one with a tokenizer.json.")
        self.tokenizer, self.template, self.schema = tokenizer, template, schema
        self.image_token_id, self.tokens_per_image = image_token_id, tokens_per_image
        self.stop_id = self._special_id(template.stop, "template.stop")
        if self._special_id(IMAGE_PLACEHOLDER, "the image placeholder") != image_token_id:
            raise UserError(
                f"image_token_id is {image_token_id}, but the tokenizer gives {IMAGE_PLACEHOLDER} another id."
            )
        self.pad_id = self.stop_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self.add_bos = self._follows_bos_convention()
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._reserved = sorted((special | {template.stop} | set(tokenizer.all_special_tokens)) - {IMAGE_PLACEHOLDER})
        self._unspoken = {*tokenizer.convert_tokens_to_ids(self._reserved), image_token_id}

    def _special_id(self, text: str, what: str) -> int:
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id != self.tokenizer.convert_tokens_to_ids(text):
            raise UserError(
                f"{what} {text!r} is not one token of the tokenizer but {len(ids)}; add it as a special token."
            )
        return int(ids[0])

    def _follows_bos_convention(self) -> bool:
        bos = self.tokenizer.bos_token
        if bos is None or self.tokenizer("a").input_ids[:1] != [self.tokenizer.bos_token_id]:
            return False
        return not self.template.render([Turn(role="user", content="a")]).startswith(bos)

    @property
    def bos_text(self) -> str:
        """Text for an exported chat template to begin with, so that its text has the ids of training.

        ``apply_chat_template`` adds no bos token of its own. Where the tokenizer sees a blank before the first word alone, the
        bos token's text takes its place, so that a blank has to follow.
        """
        if not self.add_bos:
            return ""
        bos = str(self.tokenizer.bos_token)
        return next((text for text in (bos, f"{bos} ") if self._keeps_ids(text)), bos)

    def _keeps_ids(self, bos: str) -> bool:
        """Whether texts behind `bos` become a bos token and the ids that they have alone."""
        user = Turn(role="user", content="a")
        for turns in ([user], [Turn(role="system", content="a"), user]):
            text = self.template.render(turns, add_generation_prompt=True)
            alone, behind = (self.tokenizer(given, add_special_tokens=False).input_ids for given in (text, bos + text))
            if behind != [self.tokenizer.bos_token_id, *alone]:
                return False
        return True

    def encode_prompt(
        self, turns: Sequence[Turn], attributes: Mapping[str, Any] | None = None, may_be_empty: bool = False
    ) -> list[int]:
        """Return the ids of the generation prompt, each ``<image>`` as `tokens_per_image` copies of the image token.

        Args:
            turns: the conversation; its last turn is the user's.
            attributes: a value for each attribute that the schema asks for, or None for no attribute turn.
            may_be_empty: earlier answers may be empty, as a model's can.
        """
        if not turns or turns[-1].role != "user":
            raise UserError("a prompt must end with a user turn.")
        prepared, asked = self._prepare(turns, attributes, may_be_empty)
        return self._encode(prepared, asked, add_generation_prompt=True).ids

    def encode_example(
        self,
        turns: Sequence[Turn],
        attributes: Mapping[str, Any] | None = None,
        last_answer_only: bool = False,
        may_be_empty: bool = False,
    ) -> EncodedSequence:
        """Return the whole conversation's ids with loss on the answers and their stop tokens.

        The ids begin with those of ``encode_prompt(turns[:-1], attributes)`` and end with the last stop token.

        Args:
            turns: the conversation; its last turn is the assistant's.
            attributes: as for `encode_prompt`.
            last_answer_only: no loss on earlier answers.
            may_be_empty: an empty answer is its stop token alone; it can be rated, but is nothing to learn.
        """
        if not turns or turns[-1].role != "assistant":
            raise UserError("an example to train on must end with an assistant turn.")
        prepared, asked = self._prepare(turns, attributes, may_be_empty)
        sequence = self._encode(prepared, asked, add_generation_prompt=False)
        prompt = self._encode(prepared[:-1], asked, add_generation_prompt=True).ids
        if sequence.ids[: len(prompt)] != prompt or not all(sequence.loss_mask[len(prompt) :]):
            raise UserError(
                "the tokens of the prompt change when the answer follows, so training and generation would not agree; "
                "the template's assistant_prefix and answer_prefix must meet at a token boundary of this tokenizer."
            )
        if last_answer_only:
            sequence.loss_mask = [False] * len(prompt) + sequence.loss_mask[len(prompt) :]
        return sequence

    def encode_preference(self, example: PreferenceExample) -> list[EncodedSequence]:
        """Return the chosen, then the rejected sequence, with loss on the final answer only."""
        return self.encode_answers(example.turns, (example.chosen, example.rejected), example.attributes)

    def encode_answers(
        self,
        turns: Sequence[Turn],
        texts: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        may_be_empty: bool = False,
    ) -> list[EncodedSequence]:
        """Return a sequence for each answer to a prompt, whose last turn is the user's, with loss on that answer only."""
        answers = [Turn(role="assistant", content=text) for text in texts]
        return [self.encode_example([*turns, answer], attributes, True, may_be_empty) for answer in answers]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without image and special tokens, stripped."""
        return self.decode_whole(ids).strip()

    def decode_whole(self, ids: Sequence[int]) -> str:
        """Return the same with white space at its ends."""
        words = [index for index in ids if index not in self._unspoken]
        return str(self.tokenizer.decode(words, clean_up_tokenization_spaces=False))

    def _prepare(
        self, turns: Sequence[Turn], attributes: Mapping[str, Any] | None, may_be_empty: bool = False
    ) -> tuple[list[Turn], str]:
        """The turns that ask for attributes, and what stands before the last answer."""
        for number, turn in enumerate(turns, start=1):
            self._refuse_reserved(turn, number)
            if turn.role == "assistant" and not may_be_empty and not turn.content.strip():
                raise UserError(f"turn {number} (assistant) is empty; an answer needs at least one character.")
        if attributes is None:
            return list(turns), ""
        if self.schema is None:
            raise UserError("attributes are given, but there is no attribute schema; set attribute_schema.")
        return self.template.ask(turns, self.schema, attributes)

    def _refuse_reserved(self, turn: Turn, number: int) -> None:
        where = f"turn {number} ({turn.role})"
        for text in self._reserved:
            if text in turn.content:
                raise UserError(f"{where} contains {text!r}, which is a special token; remove it from the text.")
        if turn.role != "user" and IMAGE_PLACEHOLDER in turn.content:
            raise UserError(f"{where} contains {IMAGE_PLACEHOLDER}, which may only stand in a user turn; remove it.")

    def _encode(self, turns: Sequence[Turn], asked: str, add_generation_prompt: bool) -> EncodedSequence:
        text, spans = self.template.render_spans(turns, add_generation_prompt, asked)
        if not add_generation_prompt and spans:
            text = text[: spans[-1][1]]  # what follows the last stop token is never predicted
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        bos = [self.tokenizer.bos_token_id] if self.add_bos else []
        sequence = EncodedSequence(list(bos), [False] * len(bos))
        for token, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
            copies = self.tokens_per_image if token == self.image_token_id else 1
            sequence.ids += [token] * copies
            sequence.loss_mask += [_in_answer(start, end, spans)] * copies
        return sequence


def _in_answer(start: int, end: int, spans: list[tuple[int, int]]) -> bool:
    return any(end > span_start and start < span_end for span_start, span_end in spans)
