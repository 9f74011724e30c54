"""Unequal lengths: what is drawn follows the distribution, and both sides are given the same tokens."""

from __future__ import annotations

import math
import statistics

import pytest

from nemo_mm_align.benchmarks.lengths.draw import answer_records, answer_samples, draw, pair_records, pair_samples
from nemo_mm_align.benchmarks.lengths.settings import Distribution, Spread
from nemo_mm_align.benchmarks.random_models import END_ID, IMAGE_ID, words_tokenizer
from nemo_mm_align.datasets.grouping import group_answers
from nemo_mm_align.datasets.rows import row_lengths
from nemo_mm_align.model.config import LanguageConfig, LlavaConfig, VisionConfig

ANSWER = Spread(median=160, spread=0.7, least=8, most=1024)
LENGTHS = Distribution(
    image=576,
    prompt=Spread(median=60, spread=0.3, least=20, most=256),
    answer=ANSWER,
    likeness=0.5,
    line_text=30,
    line_values=30,
)


def config_with(image_size: int) -> LlavaConfig:
    language = LanguageConfig(num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, vocab_size=500)
    return LlavaConfig(
        language, VisionConfig(3, 32, 64, 4, image_size=image_size, patch_size=14), image_token_id=IMAGE_ID
    )


LARGE, SMALL = config_with(336), config_with(84)  # 576 and 36 tokens of a picture


def test_log_normal_by_hand() -> None:
    assert [ANSWER.tokens(z, 1.0) for z in (0.0, 1.0, -1.0)] == [160, 322, 79]  # 160 e^0.7 = 322.2, 160 e^-0.7 = 79.5
    assert [ANSWER.tokens(z, 1.0) for z in (5.0, -5.0)] == [1024, 8]
    assert [ANSWER.tokens(z, 1 / 16) for z in (0.0, 5.0, -5.0)] == [10, 64, 1]


def test_answers_are_as_long_as_the_distribution_says_and_alike_where_the_prompt_is_one() -> None:
    pairs = draw(SMALL, LENGTHS.model_copy(update={"image": 36}), 3000, 2, with_lines=False, seed=0)
    answers = [len(answer) for pair in pairs for answer in pair.answers]
    assert statistics.median(answers) == pytest.approx(160, rel=0.03)
    assert statistics.mean(answers) == pytest.approx(203, rel=0.03)  # 160 e^(0.7^2 / 2) = 204, cut at 1,024
    first, second = ([math.log(len(pair.answers[k])) for pair in pairs] for k in (0, 1))
    assert statistics.correlation(first, second) == pytest.approx(0.5, abs=0.04)


def test_proportions_stay_with_a_smaller_picture() -> None:
    large, small = (draw(config, LENGTHS, 50, 1, with_lines=True, seed=1) for config in (LARGE, SMALL))
    for one, other in zip(large, small, strict=True):
        assert len(other.answers[0]) == pytest.approx(len(one.answers[0]) / 16, abs=0.51)
        assert len(other.prompts[0]) == pytest.approx(len(one.prompts[0]) / 16, abs=1.6)


def test_both_sides_are_given_the_same_ids() -> None:
    drawn = draw(SMALL, LENGTHS, 2, 2, with_lines=True, seed=2)
    tokenizer = words_tokenizer(SMALL.language.vocab_size)

    def ids(prompt: str, answer: str) -> list[int]:
        return list(tokenizer(f"{prompt.replace('<image>', '<image> ' * 36)} {answer}")["input_ids"])

    pairs, records = pair_samples(drawn, SMALL), pair_records(drawn[:1])
    assert [pair.sequences[0].ids for pair in pairs[:1]] == [ids(one["prompt"], one["chosen"]) for one in records]
    singles, records = answer_samples(drawn, SMALL), answer_records(drawn)
    assert [one.sequences[0].ids for one in singles] == [ids(one["prompt"], one["completion"]) for one in records]
    assert all(sequence.ids[-1] == END_ID for one in pairs for sequence in one.sequences)


def test_answers_to_one_prompt_share_it_up_to_their_own_values() -> None:
    drawn = draw(SMALL, LENGTHS, 2, 4, with_lines=True, seed=3)
    samples = answer_samples(drawn, SMALL)
    grouped = group_answers(samples, IMAGE_ID, 10_000)
    assert [len(sample.sequences) for sample in grouped] == [4, 4]
    apart = sum(sum(row_lengths(sample, False)) for sample in samples)
    (row,), (other,) = (row_lengths(sample, True) for sample in grouped)
    questions = [len(one.prompts[0]) - round(30 / 16) for one in drawn]  # without the answer's own values
    assert apart - row - other == 3 * sum(36 + question for question in questions)
