"""SteerLM 2.0: likelihoods of attributes, the set that is built of them, its samples, the loss and its gradient by hand."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from scipy import stats

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.attribute_likelihood import EDGE, log_likelihood, value_probability
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.datasets.build_summary import BuildSummary
from nemo_mm_align.datasets.builders import build
from nemo_mm_align.datasets.collate import collate
from nemo_mm_align.datasets.kinds import WEIGHED_ANSWERS
from nemo_mm_align.datasets.sample import Sample, SampleStore
from nemo_mm_align.datasets.sources import SourceSettings, read_examples
from nemo_mm_align.datasets.weights import effective_size
from nemo_mm_align.objectives.objective import Reading
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import SteeredAnswer, SteeredAnswers
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Annotation, RatedCandidate, Turn, write_records
from tests.unit.test_attribute_dpo import encoder, reading_of, taste  # noqa: F401
from tests.unit.test_build_steerlm import annotation, candidate

LINE = {"complexity": 1.0, "verbosity": 0.0}
TEXTS = ("yes", "A red circle .", "no")


def weighed(name: str, likelihoods: list[float], priors: list[float] | None = None) -> SteeredAnswers:
    given = priors or [None] * len(likelihoods)
    answers = tuple(
        SteeredAnswer(text=text, log_likelihood=value, log_prior=prior)
        for text, value, prior in zip(TEXTS, likelihoods, given, strict=False)
    )
    turns = (Turn(role="user", content="What is in the image?"),)
    return SteeredAnswers(id=name, turns=turns, attributes=LINE, answers=answers)


def test_the_probabilities_of_an_attributes_values_are_a_beta_distributions() -> None:
    """0 to 4: bins end half-way between values. At a rating of 4 the share is kept EDGE below 1."""
    attribute = Attribute(name="v", minimum=0, maximum=4)
    ends = [0, 0.125, 0.375, 0.625, 0.875, 1]
    for told, share in ((0.0, EDGE), (1.3, 0.325), (2.0, 0.5), (4.0, 1 - EDGE)):
        found = [value_probability(attribute, value, told, 24.0) for value in range(5)]
        there = stats.beta(24 * share, 24 * (1 - share))
        expected = [there.cdf(high) - there.cdf(low) for low, high in pairwise(ends)]
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert sum(found) == pytest.approx(1, abs=1e-12)
    # What is all but impossible keeps its digits: 1 - cdf would be 0.
    assert value_probability(attribute, 4, 0.0, 24.0) == pytest.approx(
        float(stats.beta(24 * EDGE, 24 * (1 - EDGE)).sf(0.875)), rel=1e-6
    )
    assert value_probability(attribute, 4, 0.0, 1e5) > 0
    share = Attribute(name="s", minimum=-1, maximum=1, integer=False)
    assert value_probability(share, 0.0, 0.0, 8.0) == pytest.approx(
        float(stats.beta(4, 4).cdf(0.625) - stats.beta(4, 4).cdf(0.375)), rel=1e-9
    )


def told(item: RatedCandidate, **predicted: float) -> RatedCandidate:
    return item.model_copy(update={"predicted": dict(item.ratings) | predicted})


def built(
    schema: AttributeSchema, given: list[Annotation], **settings: object
) -> tuple[list[SteeredAnswers], BuildSummary]:
    return build(BuildSettings.model_validate({"name": "steerlm2", **settings}), given, schema)  # type: ignore[return-value]


def test_answers_are_weighed_by_what_a_model_told_of_them(taste: AttributeSchema) -> None:  # noqa: F811
    one = told(candidate("one", 12, 1, 0), complexity=1.3, verbosity=0.2)
    same = told(candidate("one", 12, 1, 1), complexity=1.1, verbosity=0.6)
    two = told(candidate("two", 10, 3, 4), complexity=2.8, verbosity=3.9)
    given = annotation(taste, "p", one, same, two).model_copy(update={"asked": LINE})
    alone = annotation(taste, "q", one, same)
    (example,), summary = built(taste, [given, alone], imply_quality=False)
    assert example.attributes == LINE and [answer.text for answer in example.answers] == ["one", "two"]
    means = {"complexity": 1.2, "verbosity": 0.4}
    expected = log_likelihood(taste, LINE, means, 24.0)
    assert example.answers[0].log_likelihood == pytest.approx(expected, rel=1e-9)
    by_hand = sum(math.log(value_probability(taste[name], LINE[name], means[name], 24.0)) for name in LINE)
    assert expected == pytest.approx(by_hand, rel=1e-12)
    assert example.answers[1].log_likelihood < expected - 10 and example.answers[0].log_prior is None
    assert summary.dropped["prompt", "fewer than two distinct candidates"] == 1
    assert summary.dropped["candidate", "same text as another, counted in its mean"] == 2
    assert summary.mixture is not None and not summary.warnings
    assert summary.mixture["effective_answers_per_prompt"] == pytest.approx(1, abs=1e-3)
    sharper, _ = built(taste, [given], imply_quality=False, concentration=240.0)
    assert sharper[0].answers[1].log_likelihood < example.answers[1].log_likelihood


def test_quality_is_implied_and_all_that_counts_where_no_line_is_to_be_heeded(taste: AttributeSchema) -> None:  # noqa: F811
    best, fair = candidate("best", 12, 4, 4), candidate("fair", 8, 1, 0)
    pair = [annotation(taste, "i", best, fair), annotation(taste, "t", best, fair, image=False)]
    pair = [item.model_copy(update={"asked": LINE}) for item in pair]
    quality = {"helpfulness": 4.0, "correctness": 4.0, "coherence": 4.0}
    for settings, wanted in (
        ({}, (quality | LINE, quality)),
        ({"imply_quality": False}, (LINE, quality)),
        ({"replay_annotated": False, "imply_quality": False}, (LINE, LINE)),
    ):
        found, summary = built(taste, pair, **settings)
        for example, values in zip(found, wanted, strict=True):
            for answer, item in zip(example.answers, (best, fair), strict=True):
                assert answer.log_likelihood == pytest.approx(log_likelihood(taste, values, item.ratings, 24.0))
        assert any("2 of 2 prompts have ratings without what a model told" in text for text in summary.warnings)


def test_candidates_that_nothing_was_asked_of_ask_in_hindsight(taste: AttributeSchema) -> None:  # noqa: F811
    given = [annotation(taste, f"p{n}", candidate("a", 12, 1, 0), candidate("b", 12, 3, 4)) for n in range(20)]
    found, summary = built(taste, given)
    lines = [tuple(example.attributes.values()) for example in found]
    assert set(lines) == {(1, 0), (3, 4)} and lines == [tuple(e.attributes.values()) for e in built(taste, given)[0]]
    assert any("20 of 20 prompts have candidates that nothing was asked of" in text for text in summary.warnings)


def test_records_are_read_back_and_faults_named(tmp_path: Path, taste: AttributeSchema) -> None:  # noqa: F811
    path = tmp_path / "weighed.jsonl"
    records = [weighed("a", [-1.0, -2.0]), weighed("b", [-1.0, -2.0, -0.5], [-3.0, -4.0, -5.0])]
    write_records(path, records)
    assert read_examples(SourceSettings(path=str(path)), taste) == records
    answers = '{"text": "a", "log_likelihood": -1%s}, {"text": "%s"%s}'
    for inserted, message in (
        (("", "b", ""), "log_likelihood"),
        ((', "log_prior": -1', "b", ', "log_likelihood": -1'), "log_prior stands with some answers"),
        (("", "a", ', "log_likelihood": -1'), "two answers are the same text"),
        (("", "b", ', "log_likelihood": -1, "weight": 1'), "unknown key 'weight' of an answer"),
        ((', "log_prior": -1', "b", ', "log_likelihood": -1'), r"\(id x\): log_prior"),
    ):
        head = (
            '{"id": "x", "turns": [{"role": "user", "content": "q"}], "attributes": {"complexity": 1, "verbosity": 0}'
        )
        path.write_text(f'{head}, "answers": [{answers % inserted}]}}\n')
        with pytest.raises(UserError, match=message):
            read_examples(SourceSettings(path=str(path)), taste)


def samples_of(encoder: Encoder, *examples: SteeredAnswers) -> list[Sample]:  # noqa: F811
    return [WEIGHED_ANSWERS.encode(example, encoder) for example in examples]


def test_the_reference_is_asked_without_the_line_where_no_prior_is_given(encoder: Encoder) -> None:  # noqa: F811
    given, open_ = samples_of(encoder, weighed("g", [-1.0, -2.0], [-3.0, -4.0]), weighed("o", [-1.0, -2.0, -0.5]))
    assert given.prior is None and given.targets == [[-1.0, -3.0], [-2.0, -4.0]]
    assert open_.prior is not None and math.isnan(open_.targets[0][1])
    prompts = [encoder.encode_prompt(weighed("x", [0, 0]).turns, line) for line in (LINE, None)]
    for sequence, prior in zip(open_.sequences, open_.prior.sequences, strict=True):
        assert sequence.ids[: len(prompts[0])] == prompts[0] and prior.ids[: len(prompts[1])] == prompts[1]
        assert sequence.ids[len(prompts[0]) :] == prior.ids[len(prompts[1]) :]
    store = SampleStore([given, open_])
    fingerprint = store.fingerprint()
    store.set_prior_log_probs(1, [-7.0, -8.0, -9.0])
    assert store[1].prior_log_probs == [-7.0, -8.0, -9.0] and store.fingerprint() == fingerprint
    assert store[1].prior == open_.prior, "packed and unpacked"


def batch_of(samples: list[Sample], shared: bool) -> Batch:
    return collate(samples, 400, 0, 1, 4, None, shared, roles=WEIGHED_ANSWERS.roles)


REFERENCE, PRIORS, POLICY = [-2.0, -3.0, -1.0], [-2.5, -2.0, -1.5], [-1.5, -3.5, -1.25]
LIKELIHOODS, GIVEN = [-0.5, -1.0, -4.0], [-1.0, -2.0]


def two_prompts(encoder: Encoder) -> list[Sample]:  # noqa: F811
    """Of three answers whose priors the reference told, and of two that brought theirs."""
    open_, given = samples_of(encoder, weighed("o", LIKELIHOODS), weighed("g", [-3.0, -1.0], GIVEN))
    open_.reference_log_probs, open_.prior_log_probs, given.reference_log_probs = REFERENCE, PRIORS, [-1.0, -1.0]
    return [open_, given]


def softmax(values: list[float]) -> list[float]:
    total = sum(map(math.exp, values))
    return [math.exp(value) / total for value in values]


@pytest.mark.parametrize("shared", [True, False])
def test_the_loss_and_its_gradient_are_what_the_docstring_says(encoder: Encoder, shared: bool) -> None:  # noqa: F811
    samples = two_prompts(encoder)
    batch = batch_of(samples, shared)
    weights = [
        softmax([a + p - q for a, p, q in zip(LIKELIHOODS, PRIORS, REFERENCE, strict=True)]),
        softmax([-3.0 - 1.0 + 1.0, -1.0 - 2.0 + 1.0]),
    ]
    policies = [softmax([new - old for new, old in zip(POLICY, REFERENCE, strict=True)]), softmax([0.5, -1.0])]
    divergences = [
        sum(w * math.log(w / b) for w, b in zip(of_w, of_b, strict=True))
        for of_w, of_b in zip(weights, policies, strict=True)
    ]
    tokens = [
        sum(sequence.num_answer_tokens for sequence in sample.sequences) / len(sample.sequences) for sample in samples
    ]
    log_probs = [*POLICY, -0.5, -2.0]
    values_BS = reading_of(batch, log_probs).token_losses_BS.clone().requires_grad_()
    output = find_recipe("steerlm2").configured().loss(Reading(values_BS), batch)
    assert output.loss_sum.item() == pytest.approx(
        sum(d / n for d, n in zip(divergences, tokens, strict=True)), rel=1e-9
    )
    assert int(output.count) == 2
    output.loss_sum.backward()
    # In every token's -log p: that of the weighted NLL, divided by the mean answer tokens of the prompt.
    expected = [
        (w - b) / n
        for of_w, of_b, n in zip(weights, policies, tokens, strict=True)
        for w, b in zip(of_w, of_b, strict=True)
    ]
    assert values_BS.grad is not None
    sums_Q = batch.sum_per_sequence(values_BS.grad * (batch.labels_BS >= 0))
    labelled_Q = batch.sum_per_sequence((batch.labels_BS >= 0).double())
    assert (sums_Q / labelled_Q).tolist() == pytest.approx(expected, abs=1e-9)
    metrics = {name: float(total / weight) for name, (total, weight) in output.metrics.items()}
    assert metrics["kl_target"] == pytest.approx(sum(divergences) / 2, rel=1e-6)
    assert metrics["ess_target"] == pytest.approx(
        sum(effective_size([math.log(w) for w in of_w]) for of_w in weights) / 2, rel=1e-6
    )
    best = [max(range(len(of_w)), key=of_w.__getitem__) for of_w in weights]
    assert metrics["best_weight_policy"] == pytest.approx(
        sum(of_b[place] for of_b, place in zip(policies, best, strict=True)) / 2, rel=1e-6
    )
    held = sum(b * value for b, value in zip([*policies[0], *policies[1]], [*LIKELIHOODS, -3.0, -1.0], strict=True))
    assert metrics["log_likelihood_policy"] == pytest.approx(held / 2, rel=1e-6)


def test_nothing_is_left_to_learn_where_the_policy_is_the_target(encoder: Encoder) -> None:  # noqa: F811
    """log Q = log P(a | x, y) + log P(y | x) + a constant of the prompt: w = b, whatever the reference was."""
    batch = batch_of(two_prompts(encoder), True)
    target = [a + p - 2 for a, p in zip(LIKELIHOODS, PRIORS, strict=True)]
    values_BS = reading_of(batch, [*target, -4.0, -3.0]).token_losses_BS.clone().requires_grad_()
    output = find_recipe("steerlm2").configured().loss(Reading(values_BS), batch)
    output.loss_sum.backward()
    assert output.loss_sum.item() == pytest.approx(0, abs=1e-12)
    assert values_BS.grad.abs().max() == pytest.approx(0, abs=1e-12)


def test_micro_batches_change_no_number_and_what_is_missing_is_refused(encoder: Encoder) -> None:  # noqa: F811
    samples, recipe = two_prompts(encoder), find_recipe("steerlm2").configured()
    log_probs = [*POLICY, -0.5, -2.0]
    both = batch_of(samples, True)
    parts = [batch_of([sample], False) for sample in samples]
    whole = recipe.loss(reading_of(both, log_probs), both)
    outputs = [
        recipe.loss(reading_of(part, values), part)
        for part, values in zip(parts, (log_probs[:3], log_probs[3:]), strict=True)
    ]
    assert float(whole.loss_sum) == pytest.approx(sum(float(output.loss_sum) for output in outputs), rel=1e-12)
    assert all(list(output.metrics) == list(whole.metrics) for output in outputs)
    samples[0].prior_log_probs = None
    lacking = batch_of(samples[:1], True)
    assert torch.isnan(recipe.loss(reading_of(lacking, log_probs[:3]), lacking).loss_sum)
    samples[0].reference_log_probs = None
    lacking = batch_of(samples[:1], True)
    with pytest.raises(ValueError, match="no reference log-probs"):
        recipe.loss(reading_of(lacking, log_probs[:3]), lacking)
