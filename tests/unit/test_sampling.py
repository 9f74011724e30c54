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

from nemo_mm_align.errors import UserError
from nemo_mm_align.inference.sampling import RandomStreams, filter_logits, sample_tokens
from nemo_mm_align.inference.sampling_settings import SamplingSettings


def logits(rows: int = 64, vocabulary: int = 131) -> torch.Tensor:
    values = 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(3))
    values[:, 7] = values[:, 9]  # ties
    values[:, -3:] = float("-inf")  # padded columns
    return values


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
    assert torch.equal(filter_logits(logits(), settings), warpers(None, logits()))


def test_draws_follow_the_distribution():
    draws, settings = 40_000, SamplingSettings(temperature=0.9, top_k=12, top_p=0.95)
    row = logits(1)
    uniform = RandomStreams(1, ((f"p{number}", 0) for number in range(draws))).uniform(0)
    found = torch.bincount(sample_tokens(row.expand(draws, -1), settings, uniform), minlength=row.shape[1]).numpy()
    expected = filter_logits(row, settings).softmax(-1)[0].double().numpy()
    kept = expected > 0
    assert found[~kept].sum() == 0 and kept.sum() > 4
    assert chisquare(found[kept], draws * expected[kept] / expected[kept].sum()).pvalue > 1e-3


def test_greedy_takes_the_most_probable_token():
    ids = sample_tokens(logits(), SamplingSettings(temperature=0), torch.zeros(64, dtype=torch.float64))
    assert torch.equal(ids, logits().argmax(-1))


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-53])
def test_the_ends_of_the_interval_draw_tokens_that_exist(uniform):
    row = logits(1)
    row[:, 0] = float("-inf")
    token = sample_tokens(row, SamplingSettings(temperature=1), torch.tensor([uniform], dtype=torch.float64))
    assert row[0, token].isfinite()


def test_a_stream_belongs_to_seed_prompt_and_sample():
    answers = [(f"p{prompt}", sample) for prompt in range(500) for sample in range(4)]
    whole = torch.stack([RandomStreams(7, answers).uniform(step) for step in range(20)])
    alone = RandomStreams(7, [("p3", 2)])
    place = answers.index(("p3", 2))
    assert [float(alone.uniform(step)) for step in range(20)] == whole[:, place].tolist()
    assert not torch.equal(RandomStreams(8, answers).uniform(0), whole[0])
    values = whole.flatten().numpy()
    assert len(numpy.unique(values)) == len(values) and values.min() >= 0 and values.max() < 1
    assert abs(values.mean() - 0.5) < 5 * (1 / 12 / len(values)) ** 0.5
    assert abs(numpy.corrcoef(whole[:-1].flatten(), whole[1:].flatten())[0, 1]) < 0.02


def test_selected_rows_keep_their_streams():
    streams = RandomStreams(7, [("a", 0), ("b", 0), ("c", 0)])
    before = streams.uniform(5)
    streams.select(torch.tensor([2, 0]))
    assert torch.equal(streams.uniform(5), before[[2, 0]])


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1}, {"max_new_tokens": 0}, {"num_samples": 0}],
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        SamplingSettings(**wrong)


def test_several_greedy_samples_make_no_sense():
    with pytest.raises(UserError, match="num_samples=2 with temperature=0"):
        SamplingSettings(temperature=0, num_samples=2)
