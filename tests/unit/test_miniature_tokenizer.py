"""The word-level tokenizer: covers the world, round trips, and works with the encoder."""

import random
from pathlib import Path

import pytest

from nemo_mm_align.miniature.answers import write_answer
from nemo_mm_align.miniature.sources.charts import chart_question, draw_scene
from nemo_mm_align.miniature.sources.text import text_question
from nemo_mm_align.miniature.tokenizer import SPECIAL_TOKENS, build_tokenizer
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Turn

TOKENIZER = build_tokenizer()
TEMPLATE = ChatTemplate(
    name="vicuna_v1",
    user_prefix="USER: ",
    user_suffix=" ",
    assistant_prefix="ASSISTANT:",
    answer_prefix=" ",
    stop="</s>",
)


def test_special_tokens_come_first() -> None:
    assert TOKENIZER.convert_ids_to_tokens(list(range(5))) == list(SPECIAL_TOKENS)
    assert (TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, TOKENIZER.eos_token_id) == (0, 1, 2)
    assert TOKENIZER("red").input_ids[0] == 1


@pytest.mark.parametrize("seed", range(3))
def test_world_texts_round_trip_without_unknown_words(seed: int) -> None:
    rng = random.Random(seed)
    for split in ("train", "dev", "heldout"):
        for _ in range(100):
            question, truth = chart_question(rng, draw_scene(rng), split, 0.5)
            instruction, told = text_question(rng, split)
            answer = write_answer(rng, truth, rng.randint(0, 4), rng.randint(0, 4))
            for text in (question, answer, instruction, told.expected, f"<image>\n{question}"):
                ids = TOKENIZER(text, add_special_tokens=False).input_ids
                assert TOKENIZER.unk_token_id not in ids
                assert TOKENIZER.decode(ids) == text


def test_steering_line_round_trips_and_offsets_point_into_the_text(helpsteer: AttributeSchema) -> None:
    text = "what color is it?\n" + helpsteer.steering_line(helpsteer.complete({}))
    encoded = TOKENIZER(text, add_special_tokens=False, return_offsets_mapping=True)
    assert TOKENIZER.decode(encoded.input_ids) == text
    words = [text[start:end] for start, end in encoded["offset_mapping"]]
    assert words[-3:] == ["Verbosity", ":", "2"]
    assert TOKENIZER.convert_ids_to_tokens(encoded.input_ids) == words


def test_unknown_words_become_unk() -> None:
    assert TOKENIZER("zebra", add_special_tokens=False).input_ids == [TOKENIZER.unk_token_id]


def test_encoder_places_image_tokens_and_loss(helpsteer: AttributeSchema) -> None:
    encoder = Encoder(TOKENIZER, TEMPLATE, 4, 16, helpsteer)
    turns = [
        Turn(role="user", content="<image>\nis there a red bar?"),
        Turn(role="assistant", content="yes, there is."),
    ]
    sequence = encoder.encode_example(turns, dict.fromkeys(helpsteer.names, 3))
    assert sequence.ids.count(4) == 16
    learned = [index for index, loss in zip(sequence.ids, sequence.loss_mask, strict=True) if loss]
    assert encoder.decode(learned) == "yes, there is."
    assert learned[-1] == TOKENIZER.eos_token_id


def test_saved_tokenizer_opens_again(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    TOKENIZER.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "USER: <image>\nis there a red bar? ASSISTANT: yes, there is a red bar.</s>"
    assert again(text).input_ids == TOKENIZER(text).input_ids
    assert again.decode(again(text, add_special_tokens=False).input_ids) == text
