"""Sampling: filters against transformers' own, draws against the distribution, streams that belong to the answer."""

import numpy
import pytest
import torch
from scipy.stats import chisquare
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.sampling import (
    RowSampling,
    SamplingKind,
    filter_logits,
    sample_tokens,
    stream_key,
    uniform_numbers,
)
from nemo_mm_align.inference.sampling_settings import SamplingSettings

VOCABULARY = 131


def logits(rows: int = 64, vocabulary: int = VOCABULARY) -> torch.Tensor:
    values = 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(3))
    values[:, 7] = values[:, 9]  # ties
    values[:, -3:] = float("-inf")  # padded columns
    return values


def rows_of(settings: SamplingSettings, rows: int = 64) -> RowSampling:
    return RowSampling.of([settings] * rows, VOCABULARY)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 20, 500])
@pytest.mark.parametrize("top_p", [0.05, 0.9, 1.0])
def test_filters_equal_transformers(temperature, top_k, top_p):
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    settings = SamplingSettings(temperature=temperature, top_k=top_k, top_p=top_p)
    # to the bit, ties and borders included: the same operations of torch in the same order
    assert torch.equal(filter_logits(logits(), rows_of(settings)), warpers(None, logits()))


def test_draws_follow_the_distribution():
    draws, settings = 40_000, SamplingSettings(temperature=0.9, top_k=12, top_p=0.95)
    row = logits(1)
    uniform = uniform_numbers([stream_key(1, f"p{number}", 0) for number in range(draws)], [0] * draws)
    rows = rows_of(settings, draws)
    found = torch.bincount(sample_tokens(row.expand(draws, -1), rows, uniform), minlength=row.shape[1]).numpy()
    expected = filter_logits(row, rows_of(settings, 1)).softmax(-1)[0].double().numpy()
    kept = expected > 0
    assert found[~kept].sum() == 0 and kept.sum() > 4
    assert chisquare(found[kept], draws * expected[kept] / expected[kept].sum()).pvalue > 1e-3


def test_greedy_takes_the_most_probable_token():
    ids = sample_tokens(logits(), rows_of(SamplingSettings(temperature=0)), torch.zeros(64, dtype=torch.float64))
    assert torch.equal(ids, logits().argmax(-1))


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-53])
def test_the_ends_of_the_interval_draw_tokens_that_exist(uniform):
    row = logits(1)
    row[:, 0] = float("-inf")
    token = sample_tokens(
        row, rows_of(SamplingSettings(temperature=1), 1), torch.tensor([uniform], dtype=torch.float64)
    )
    assert row[0, token].isfinite()


def test_a_stream_belongs_to_seed_prompt_and_sample():
    answers = [(f"p{prompt}", sample) for prompt in range(500) for sample in range(4)]
    keys = [stream_key(7, *answer) for answer in answers]
    whole = torch.stack([uniform_numbers(keys, [step] * len(keys)) for step in range(20)])
    place = answers.index(("p3", 2))
    assert uniform_numbers([stream_key(7, "p3", 2)] * 20, range(20)).tolist() == whole[:, place].tolist()
    others = uniform_numbers([stream_key(8, *answer) for answer in answers], [0] * len(answers))
    assert not torch.equal(others, whole[0])
    values = whole.flatten().numpy()
    assert len(numpy.unique(values)) == len(values) and values.min() >= 0 and values.max() < 1
    assert abs(values.mean() - 0.5) < 5 * (1 / 12 / len(values)) ** 0.5
    assert abs(numpy.corrcoef(whole[:-1].flatten(), whole[1:].flatten())[0, 1]) < 0.02


def test_a_stream_is_the_one_of_every_answer_so_far():
    """Numbers of an earlier release: a file of answers that was half finished goes on as it began."""
    found = uniform_numbers([stream_key(1234, "coco-1", 1)] * 3, [0, 1, 1023]).tolist()
    assert found == EARLIER


EARLIER = [0.7702871190787813, 0.040915033214526386, 0.8258528769435767]
MIXED = [
    SamplingSettings(temperature=0),
    SamplingSettings(temperature=0.7),
    SamplingSettings(temperature=1.5, top_k=3),
    SamplingSettings(temperature=0.2, top_p=0.5),
    SamplingSettings(temperature=1.0, top_k=200, top_p=0.9),
    SamplingSettings(temperature=1.0, top_k=40, top_p=0.9),
]


def test_rows_of_one_batch_have_settings_of_their_own():
    """To the bit what each row gives in a batch of rows like it."""
    values, uniform = logits(len(MIXED)), torch.rand(len(MIXED), dtype=torch.float64)
    together = sample_tokens(values, RowSampling.of(MIXED, VOCABULARY), uniform)
    filtered = filter_logits(values, RowSampling.of(MIXED, VOCABULARY))
    for place, settings in enumerate(MIXED):
        row, one = values[place : place + 1], rows_of(settings, 1)
        assert sample_tokens(row, one, uniform[place : place + 1]) == together[place]
        if not settings.greedy:
            assert torch.equal(filter_logits(row, one)[0], filtered[place])


def test_a_kind_that_covers_others_changes_nothing_of_them():
    values, uniform = logits(len(MIXED)), torch.rand(len(MIXED), dtype=torch.float64)
    kind = SamplingKind.of(MIXED, VOCABULARY)
    assert kind == SamplingKind(True, 64, True) and SamplingKind.of(MIXED[:1], VOCABULARY) == SamplingKind(
        False, 0, False
    )
    expected = sample_tokens(values, RowSampling.of(MIXED, VOCABULARY), uniform)
    for place, settings in enumerate(MIXED):
        wide = RowSampling.of([settings], VOCABULARY, kind=kind)
        assert wide.kind == kind
        assert sample_tokens(values[place : place + 1], wide, uniform[place : place + 1]) == expected[place]
    narrow = SamplingKind.of(MIXED[:2], VOCABULARY)
    assert RowSampling.of(MIXED, VOCABULARY, kind=narrow).kind == kind


def test_settings_of_any_size_give_tokens_that_exist():
    settings = [
        SamplingSettings(temperature=1, top_k=2**63),
        SamplingSettings(temperature=1e-5),
        SamplingSettings(temperature=1e30, top_k=VOCABULARY),
        SamplingSettings(temperature=1, top_p=1e-9),
    ]
    rows = RowSampling.of(settings, VOCABULARY)
    assert rows.temperature_B1.dtype == torch.float32 and rows.kind.top_k == 0
    values = logits(4)
    ids = sample_tokens(values, rows, torch.full((4,), 0.5, dtype=torch.float64))
    assert values.gather(1, ids.unsqueeze(1)).isfinite().all() and ids[1] == values[1].argmax()
    nothing = torch.full((4, VOCABULARY), float("nan"))
    assert sample_tokens(nothing, rows, torch.full((4,), 0.5, dtype=torch.float64)).max() < VOCABULARY


def test_stop_texts_are_a_list():
    assert SamplingSettings(stop=["a", "b"]).stop == ("a", "b")
    with pytest.raises(UserError, match="stop='END': give a list"):
        SamplingSettings(stop="END")


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"temperature": 1e-39},
        {"temperature": float("inf")},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"max_new_tokens": 0},
        {"num_samples": 0},
        {"stop": ("",)},
    ],
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        SamplingSettings(**wrong)


def test_several_greedy_samples_make_no_sense():
    with pytest.raises(UserError, match="num_samples=2 with temperature=0"):
        SamplingSettings(temperature=0, num_samples=2)
