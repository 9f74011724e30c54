"""Losses on pairs, each on two pairs worked out by hand; weighted sums of them; what settings are refused."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets import kinds
from nemo_mm_align.objectives.objective import LossOutput, Reading
from nemo_mm_align.objectives.pair_losses import PAIR_LOSSES
from nemo_mm_align.objectives.pair_losses.pair_loss import PairLogRatios
from nemo_mm_align.objectives.preference import PairObjective
from nemo_mm_align.recipes.registry import all_recipes, find_recipe
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.examples import PreferenceExample
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Turn
from nemo_mm_align.training.reference import sample_key
from tests.unit.test_losses import make_batch
from tests.unit.toy_tokenizers import word_level

SETTINGS = {"beta": 0.5, "label_smoothing": 0.2, "discopop_tau": 0.5, "preference_weight": 0.5, "simpo_gamma": 1.0}
"""Of every loss; each takes those that it has."""


def softplus(value: float) -> float:
    """-log sigmoid(-value)."""
    return math.log1p(math.exp(value))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def divergence(of: float, to: float) -> float:
    """KL(Bernoulli(sigmoid(of)) || Bernoulli(sigmoid(to)))."""
    return sum(sigmoid(sign * of) * math.log(sigmoid(sign * of) / sigmoid(sign * to)) for sign in (1, -1))


# Two pairs: r of chosen 1 and -2, of rejected -3 and 2, so d = 4 and -4; beta 0.5, so beta d = 2 and -2; margins 1.5 and 0.5.
PAIRS = PairLogRatios(
    chosen_P=torch.tensor([1.0, -2.0], dtype=torch.float64),
    rejected_P=torch.tensor([-3.0, 2.0], dtype=torch.float64),
    chosen_lengths_P=torch.tensor([2.0, 4.0], dtype=torch.float64),
    rejected_lengths_P=torch.tensor([3.0, 2.0], dtype=torch.float64),
    chosen_log_probs_P=torch.tensor([-5.0, -6.0], dtype=torch.float64),
    margins_P=torch.tensor([1.5, 0.5], dtype=torch.float64),
)
# Means over tokens: chosen 1/2 and -1/2, rejected -1 and 1, so d = 1.5 and -1.5; chosen log-probs -2.5 and -1.5.
BY_HAND = {
    "sigmoid": [0.8 * softplus(-2) + 0.2 * softplus(2), 0.8 * softplus(2) + 0.2 * softplus(-2)],
    "sigmoid_norm": [softplus(-0.75), softplus(0.75)],
    "robust": [(0.8 * softplus(-2) - 0.2 * softplus(2)) / 0.6, (0.8 * softplus(2) - 0.2 * softplus(-2)) / 0.6],
    "exo_pair": [divergence(2, math.log(4)), divergence(-2, math.log(4))],
    "discopop": [
        sigmoid(-4) * softplus(-2) + sigmoid(4) * math.exp(-2),
        sigmoid(4) * softplus(2) + sigmoid(-4) * math.exp(2),
    ],
    "hinge": [0.0, 3.0],
    "ipo": [0.25, 6.25],
    "sppo_hard": [0.0 + 4.0, 9.0 + 9.0],
    "apo_zero": [1 - sigmoid(0.5) + sigmoid(-1.5), 1 - sigmoid(-1) + sigmoid(1)],
    "apo_down": [sigmoid(0.5) + 1 - sigmoid(2), sigmoid(-1) + 1 - sigmoid(-2)],
    "nca_pair": [
        softplus(-0.5) + softplus(0.5) / 2 + softplus(-1.5) / 2,
        softplus(1) + softplus(-1) / 2 + softplus(1) / 2,
    ],
    "bco_pair": [softplus(-0.5) + softplus(-1.5), softplus(1) + softplus(1)],
    "sft": [2.5, 1.5],
    "rpo_sq": [0.25, 6.25],
    "rpo_bwd_kl": [divergence(1.5, 2), divergence(0.5, -2)],
    "rpo_fwd_kl": [divergence(2, 1.5), divergence(-2, 0.5)],
    "modpo": [softplus(-1), softplus(5)],
    "simpo": [0.8 * softplus(0.25) + 0.2 * softplus(-0.25), 0.8 * softplus(1.75) + 0.2 * softplus(-1.75)],
}


QUESTION = (Turn(role="user", content="Why ?"),)


def loss_of(name: str, **settings: float) -> Any:
    kind = PAIR_LOSSES[name]
    return kind(**{item.name: {**SETTINGS, **settings}[item.name] for item in fields(kind)})


@pytest.mark.parametrize("name", BY_HAND)
def test_it_is_what_its_formula_says(name: str) -> None:
    expected = torch.tensor(BY_HAND[name], dtype=torch.float64)
    torch.testing.assert_close(loss_of(name).of_sums(PAIRS), expected, rtol=1e-12, atol=1e-12)


def test_discopop_stays_finite_far_on_the_wrong_side() -> None:
    """There exp(-x) is infinite and its share 0; the loss is that of the other part, -x."""
    chosen_P = torch.tensor([-2000.0], requires_grad=True)
    losses_P = loss_of("discopop", beta=0.1, discopop_tau=0.05)(PairLogRatios(chosen_P, torch.zeros(1)))
    (slopes_P,) = torch.autograd.grad(losses_P.sum(), chosen_P)
    assert losses_P.item() == pytest.approx(200) and slopes_P.item() == pytest.approx(-0.1)


def test_odds_are_those_of_mean_probabilities() -> None:
    """p of 1/2 and 4/5, odds 1 and 4; log-probs of -40 and of 0 stay finite, gradients too."""
    chosen_P = torch.tensor([0.5, 0.8, 1.0], dtype=torch.float64).log().requires_grad_()
    rejected_P = torch.tensor([math.log(0.8), math.log(0.5), -40.0], dtype=torch.float64)
    losses_P = loss_of("orpo")(PairLogRatios(chosen_P, rejected_P))
    assert losses_P[:2].tolist() == pytest.approx([0.5 * math.log(5), 0.5 * math.log(1.25)], rel=1e-12)
    (slopes_P,) = torch.autograd.grad(losses_P.sum(), chosen_P)
    assert losses_P.isfinite().all() and slopes_P.isfinite().all()


def test_every_loss_says_where_it_comes_from_and_no_number_is_missing() -> None:
    assert PAIR_LOSSES.keys() == {*BY_HAND, "orpo"}
    assert all(kind.source.startswith("arXiv ") for kind in PAIR_LOSSES.values())
    wanting = {name for name, kind in PAIR_LOSSES.items() if kind.needs_margins}
    for name in wanting:
        with pytest.raises(ValueError, match="needs margins of rewards"):
            loss_of(name)(replace(PAIRS, margins_P=None))
    assert wanting == {"rpo_sq", "rpo_bwd_kl", "rpo_fwd_kl", "modpo"}


def test_label_noise_is_no_bias_to_robust_and_smoothing_draws_to_its_share() -> None:
    flipped = PairLogRatios(PAIRS.rejected_P, PAIRS.chosen_P)
    robust = loss_of("robust")
    expected = loss_of("sigmoid", label_smoothing=0.0)(PAIRS)
    torch.testing.assert_close(0.8 * robust(PAIRS) + 0.2 * robust(flipped), expected, rtol=1e-12, atol=0)
    margin_P = torch.tensor([math.log(4) / 0.5], dtype=torch.float64, requires_grad=True)
    (slope_P,) = torch.autograd.grad(loss_of("sigmoid")(PairLogRatios(margin_P, torch.zeros_like(margin_P))), margin_P)
    assert float(slope_P) == pytest.approx(0, abs=1e-15)  # where the chosen answer wins in 4 of 5


# Answers of 2 and 1 tokens, -2.5 and -3.5 nats; references -3 and -4.5: r = 0.5 and 1, d = -0.5.
BATCH = make_batch([[-100, 5, 6, 7, -100]], [[0, 1, 1, 2, -1]], [-3.0, -4.5])
READING = Reading(torch.tensor([[0.0, 1.0, 1.5, 3.5, 0.0]], dtype=torch.float64))


def told(objective: Any) -> tuple[LossOutput, dict[str, float]]:
    output = objective.loss(READING, BATCH)
    return output, {name: float(total / weight) for name, (total, weight) in output.metrics.items() if weight}


def test_a_mixture_is_the_weighted_sum_of_its_parts_and_tells_each() -> None:
    """MPO: sums for sigmoid and bco_pair, means over tokens for sft."""
    mixture = find_recipe("dpo").configured(
        beta=2.0, loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0], sft_loss_weight=0.5
    )
    output, metrics = told(mixture)
    parts = {"sigmoid": 0.8 * softplus(1), "bco_pair": 0.2 * (softplus(-1) + softplus(2)), "sft": 2.5 / 2}
    assert float(output.loss_sum) == pytest.approx(sum(parts.values()) + 0.5 * 2.5, rel=1e-12)
    assert {name: metrics[f"loss_{name}"] for name in parts} == pytest.approx(parts, rel=1e-6)
    _, alone = told(find_recipe("dpo").configured(beta=2.0, loss_type=["ipo"]))
    assert alone["loss"] == pytest.approx((0.25 - 1 - 0.25) ** 2) and "loss_ipo" not in alone
    assert metrics["rewards/margins"] == alone["rewards/margins"] == pytest.approx(-1), "of sums, as in TRL"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_type": "sigmod"}, r"recipe\.loss_type='sigmod': choose from sigmoid, hinge"),
        ({"loss_type": ["sigmoid", "rpo_sq"]}, "choose from sigmoid, hinge"),
        ({"loss_type": []}, r"recipe\.loss_type=\[\]"),
        ({"loss_type": ["sft"]}, "loss_type=sft compares nothing"),
        ({"loss_type": ["ipo", "ipo"]}, "names a loss twice"),
        ({"loss_weights": [1.0, 2.0]}, r"loss_weights=\[1,2\]: recipe.loss_type=\[sigmoid\] names 1"),
        ({"loss_weights": [-1.0]}, "must be at least 0"),
        ({"loss_type": ["ipo", "sft"], "loss_weights": [0.0, 1.0]}, "no loss on pairs has a weight above 0"),
        ({"loss_type": "robust", "label_smoothing": 0.5}, r"label_smoothing=0\.5: must be below 0\.5"),
        ({"loss_type": "exo_pair"}, "exo_pair needs one above 0"),
        ({"loss_type": "hinge", "label_smoothing": 0.1}, "does not read it, sigmoid, exo_pair, robust do"),
    ],
)
def test_settings_that_do_not_fit_are_refused_as_they_are_read(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_recipe("dpo").configured(**settings)


def test_gradient_weights_are_numbers_whatever_the_loss() -> None:
    """Also where a pair has nothing to teach at the start: apo_down in the chosen answer, rpo with a margin of 0."""
    start = replace(PAIRS, chosen_P=PAIRS.chosen_P * 0, rejected_P=PAIRS.rejected_P * 0)
    for name, spec in all_recipes().items():
        if not issubclass(spec.objective, PairObjective):
            continue
        objective = spec.configured()
        assert isinstance(objective, PairObjective)
        pairs = PairLogRatios(PAIRS.chosen_P - 3, PAIRS.rejected_P - 3) if not objective.needs_reference else PAIRS
        weights_P = objective.gradient_weights(pairs)
        assert weights_P.isfinite().all() and (weights_P > 0).any(), name
        if objective.needs_reference:
            torch.testing.assert_close(objective.gradient_weights(start), torch.full_like(weights_P, 0.5), msg=name)


TARGETS = torch.tensor([[9.0, 3.0, math.nan], [2.0, 4.0, 1.0]])
"""Of the batch's two answers: a score, then the ratings of two attributes."""


def test_margins_are_differences_of_scores_or_weighted_ratings() -> None:
    """r = 0.5 of both, so d = 0; scores 9 and 2, ratings of the first attribute 3 and 4."""
    batch = replace(BATCH, targets_QT=TARGETS, reference_log_probs_Q=torch.tensor([-3.0, -4.0], dtype=torch.float64))
    schema = AttributeSchema.model_validate(
        {"name": "two", "score": [], "attributes": [{"name": "first"}, {"name": "second"}]}
    )
    for settings, margin in (({}, 0.1 * 7), ({"margin_weights": {"first": -2.0}}, 0.1 * 2)):
        for name in ("rpo", "modpo"):
            spec = find_recipe(name)
            extra = {"loss_type": "rpo_sq"} if name == "rpo" else {"preference_weight": 0.5}
            objective = spec.configured(beta=0.5, margin_scale=0.1, **settings, **extra).with_schema(schema)
            output = objective.loss(READING, batch)
            expected = margin**2 if name == "rpo" else softplus(2 * margin)  # d = 0
            assert float(output.loss_sum) == pytest.approx(expected, rel=1e-6)
            assert float(output.metrics["target_margins"][0]) == pytest.approx(margin, rel=1e-6)


def test_pairs_without_what_their_margin_is_made_of_are_named() -> None:
    pairs = [
        PreferenceExample(id="a", turns=QUESTION, chosen="a", rejected="b", chosen_score=2, rejected_score=1),
        PreferenceExample(
            id="b", turns=QUESTION, chosen="a", rejected="b", chosen_ratings={"x": 2}, rejected_ratings={"x": 1}
        ),
    ]
    scores, ratings = (
        find_recipe("rpo").configured(margin_weights=weights) for weights in (None, {"x": 1.0, "y": 0.0})
    )
    assert scores.lacks(pairs[:1]) is None and ratings.lacks(pairs[1:]) is None
    assert str(scores.lacks(pairs)).endswith("in every pair; 1 of 2 have not got them, the first is 'b'.")
    assert str(ratings.lacks(pairs)).startswith(
        "chosen_ratings and rejected_ratings with x (recipe.margin_weights) in every"
    )
    with pytest.raises(UserError, match="reads no margins"):
        find_recipe("rpo").configured(loss_type="hinge")


def test_scored_pairs_are_plain_pairs_with_targets(helpsteer: AttributeSchema) -> None:
    tokenizer = word_level()
    template = ChatTemplate(name="t", user_prefix="Q ", user_suffix=" ", assistant_prefix="A ", stop="</s>")
    encoder = Encoder(tokenizer, template, tokenizer.convert_tokens_to_ids("<image>"), 4, helpsteer)
    known = {"chosen_score": 3, "chosen_ratings": {"verbosity": 1}, "rejected_score": 2}
    pair = PreferenceExample(id="p", turns=QUESTION, chosen="yes", rejected="no", **known)
    plain, scored = kinds.PAIRS.encode(pair, encoder), kinds.SCORED_PAIRS.encode(pair, encoder)
    assert sample_key(plain, str) == sample_key(scored, str), "both take one reference log-prob from a cache"
    assert plain.targets is None and scored.targets is not None
    missing = [math.isnan(value) for value in scored.targets[0]]
    assert missing == [False, *(name != "verbosity" for name in helpsteer.names)]
    assert scored.targets[0][0] == 3 and scored.targets[1][0] == 2 and all(map(math.isnan, scored.targets[1][1:]))
