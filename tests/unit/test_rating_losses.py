"""Losses and metrics of a head that rates answers, computed by hand, and the weights that order pairs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.model.head_config import HeadConfig
from nemo_mm_align.objectives.objective import LossOutput, Reading, Reads
from nemo_mm_align.objectives.rating import Rating
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.schema.attributes import AttributeSchema

NAN = math.nan
SCHEMA = AttributeSchema.model_validate(
    {
        "name": "short",
        "attributes": [
            {"name": "helpfulness", "minimum": 0, "maximum": 4},
            {"name": "harm", "minimum": 0, "maximum": 4, "higher_is_better": False},
            {"name": "length", "minimum": 0, "maximum": 4, "higher_is_better": None},
        ],
        "score": ["helpfulness", "harm"],
    }
)
TARGETS = torch.tensor([[4.0, 0.0, 1.0], [2.0, 1.0, NAN], [NAN, 0.0, 2.0], [3.0, 1.0, 3.0], [2.0, 0.0, NAN]])
"""Three answers to one prompt, the last of which lacks a weighted attribute, and two to another that are a tie."""
OUTPUTS = torch.tensor([[3.0, 1.0, 1.0], [3.0, 0.0, 9.0], [8.0, 0.0, 1.0], [2.0, 1.0, 3.0], [2.0, 2.0, 5.0]])


def rating(**settings: object) -> Rating:
    objective = find_recipe("attribute_model").configured(**settings).with_schema(SCHEMA)
    assert isinstance(objective, Rating)
    return objective


def loss(counts: tuple[int, ...] = (3, 2), **settings: object) -> LossOutput:
    rows = torch.zeros(5, 1, dtype=torch.int64)
    batch = Batch(rows, rows, rows, rows, None, None, ("a", "b"), sequence_counts=counts, targets_QT=TARGETS)
    return rating(**settings).loss(Reading(hidden_QH=rows, outputs_QT=OUTPUTS.clone().requires_grad_()), batch)


def test_squared_errors_are_of_known_values() -> None:
    output = loss()
    squares = (1 + 1 + 0) + (1 + 1) + (0 + 1) + (1 + 0 + 0) + (0 + 4)
    assert (float(output.loss_sum), int(output.count)) == (squares, 12)
    assert {name: (float(total), float(weight)) for name, (total, weight) in output.metrics.items()} == {
        "loss": (squares, 12),
        "pair_accuracy": (0, 1),  # of the first two the second is told to be better: 3 - 0 against 3 - 1
        "mae_helpfulness": (1 + 1 + 1 + 0, 4),
        "mae_harm": (1 + 1 + 0 + 0 + 2, 5),
        "mae_length": (0 + 1 + 0, 3),
    }
    output.loss_sum.backward()


def log_sigmoid(value: float) -> float:
    return -math.log1p(math.exp(-value))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bradley_terry", -log_sigmoid(-1)),
        ("margin_bradley_terry", -log_sigmoid(-1 - 3)),
        ("scaled_bradley_terry", -3 * log_sigmoid(-1)),
    ],
)
def test_pairs_are_of_one_prompt_without_ties_and_answers_that_lack_a_weighted_attribute(
    name: str, expected: float
) -> None:
    output = loss(loss_function=name)  # m = (4 - 0) - (2 - 1) = 3, delta = (3 - 1) - (3 - 0) = -1
    assert float(output.loss_sum) == pytest.approx(expected, rel=1e-6) and int(output.count) == 1
    assert float(output.metrics["mae_harm"][0]) == 4, "in the attributes' units, whatever is trained on"


def test_pairs_follow_the_weights() -> None:
    output = loss(loss_function="bradley_terry", weights={"length": -0.5})  # answers 0 and 2, told to be equally long
    assert float(output.loss_sum) == pytest.approx(math.log(2)) and int(output.count) == 1
    assert float(output.metrics["pair_accuracy"][0]) == 0, "not ordered is not ordered alike"
    one_prompt = loss((5,), loss_function="bradley_terry", weights={"harm": 1.0})
    assert int(one_prompt.count) == 6, "2 of the 5 answers are harmful: 2 x 3 pairs"
    assert int(loss((1, 1, 1, 1, 1), loss_function="bradley_terry").count) == 0


def test_the_better_one_of_a_pair_comes_first_wherever_it_stands() -> None:
    one, other = rating().pairs(OUTPUTS[:2], TARGETS[:2], (2,)), rating().pairs(OUTPUTS[[1, 0]], TARGETS[[1, 0]], (2,))
    assert one.margin_P.tolist() == other.margin_P.tolist() == [3.0]
    assert one.delta_P.tolist() == other.delta_P.tolist() == [-1.0]


def test_weights_that_are_left_open_are_those_of_the_score() -> None:
    assert rating().weights == {"helpfulness": 1.0, "harm": -1.0, "length": 0.0}
    assert list(rating(weights={"length": 2, "harm": -0.5}).weights or ()) == list(SCHEMA.names), "in schema order"
    assert rating().with_schema(SCHEMA) == rating()
    with pytest.raises(UserError, match=r"recipe.weights names honesty; schema 'short' has helpfulness, harm, length"):
        rating(weights={"honesty": 1})
    unordered = SCHEMA.model_copy(update={"score": ()})
    with pytest.raises(UserError, match="loss_function=bradley_terry orders answers by a weighted sum, but no attr"):
        find_recipe("attribute_model").configured(loss_function="bradley_terry").with_schema(unordered)
    assert find_recipe("attribute_model").configured().with_schema(unordered)
    with pytest.raises(ValueError, match="weights by with_schema"):
        batch = replace(find_recipe("attribute_model").configured())
        rows = torch.zeros(1, 1, dtype=torch.int64)
        batch.loss(Reading(outputs_QT=OUTPUTS), Batch(rows, rows, rows, rows, None, None, ("a",)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_function": "huber"}, "recipe.loss_function='huber': choose from mse, bradley_terry"),
        ({"pooling": "max"}, "recipe.pooling='max': choose from last, mean"),
        ({"weights": {"harm": "much"}}, "recipe.weights.harm='much': must be a number"),
    ],
)
def test_odd_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rating(**settings)


def test_it_reads_one_hidden_state_per_answer_and_has_an_output_per_attribute() -> None:
    objective = rating(pooling="mean")
    assert objective.reads == Reads(hidden="mean") and objective.rows_shared
    assert objective.head(SCHEMA) == HeadConfig(("helpfulness", "harm", "length"), "mean")
