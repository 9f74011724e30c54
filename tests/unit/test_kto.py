"""KTO: losses by hand (tests/unit/test_trl_parity.py has TRL's), mismatched answers, balance of the two sides."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.kinds import LABELLED_ANSWERS, check_kind
from nemo_mm_align.datasets.label_balance import weight_hint
from nemo_mm_align.datasets.mismatched import mismatched_samples
from nemo_mm_align.datasets.sample import CHOSEN, REJECTED, Sample
from nemo_mm_align.objectives.kto import KahnemanTversky
from nemo_mm_align.objectives.objective import LossOutput, Reading
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.schema.examples import LabelledExample, PreferenceExample, TrainingExample
from nemo_mm_align.schema.prompts import EncodedSequence
from nemo_mm_align.schema.records import Turn
from tests.unit.test_losses import make_batch


def kto(**settings: object) -> KahnemanTversky:
    recipe = find_recipe("kto").configured(**settings)
    assert isinstance(recipe, KahnemanTversky)
    return recipe


def batch_of(desirable: list[int], undesirable: list[int], references: list[float]) -> Batch:
    """Rows of one answer token each."""
    count = len(references)
    batch = make_batch([[5, -100]] * count, [[1, 1]] * count, references)
    places = {
        CHOSEN: torch.tensor(desirable, dtype=torch.int64),
        REJECTED: torch.tensor(undesirable, dtype=torch.int64),
    }
    return replace(batch, roles=places)


def loss(recipe: KahnemanTversky, policy: torch.Tensor, batch: Batch, point: float) -> LossOutput:
    losses_BS = torch.stack([-policy, torch.zeros_like(policy)], dim=1)
    return recipe.loss(Reading(losses_BS), replace(batch, point=torch.tensor(point, dtype=torch.float64)))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_losses_by_hand() -> None:
    """Log-ratios: 1 and -0.5 of desirable answers, 2 of an undesirable one; beta 0.5, weights 1 and 1.5."""
    policy = torch.tensor([-2.0, -4.0, -3.5], dtype=torch.float64, requires_grad=True)
    batch = batch_of([0, 2], [1], [-3.0, -6.0, -3.0])
    settings = {"beta": 0.5, "undesirable_weight": 1.5}
    output = loss(kto(**settings), policy, batch, 0.4)
    parts = [1 - sigmoid(0.5 * 0.6), 1 - sigmoid(0.5 * -0.9), 1.5 * (1 - sigmoid(0.5 * -1.6))]
    assert float(output.loss_sum.detach()) == pytest.approx(sum(parts), rel=1e-12) and int(output.count) == 3
    output.loss_sum.backward()
    slopes = [(-1, 0.6), (1.5, -1.6), (-1, -0.9)]  # of 1 - s(x), weighted; undesirable answers become less likely
    expected = [weight * 0.5 * sigmoid(0.5 * x) * sigmoid(-0.5 * x) for weight, x in slopes]
    assert policy.grad is not None and policy.grad.tolist() == pytest.approx(expected, rel=1e-12)
    metrics = {name: float(total / weight) for name, (total, weight) in output.metrics.items()}
    assert metrics["rewards/chosen"] == pytest.approx(0.125) and metrics["rewards/rejected"] == 1.0
    assert metrics["kl"] == pytest.approx(0.4)
    assert kto().derived(metrics)["rewards/margins"] == pytest.approx(-0.875)
    below = loss(kto(**settings), policy.detach(), batch, -7.0)
    assert float(below.metrics["kl"][0]) == 0, "an estimate below 0 is 0"
    unpaired = loss(kto(loss_type="apo_zero_unpaired", **settings), policy.detach(), batch, 0.4)
    expected_sum = 1 - sigmoid(0.5) + 1 - sigmoid(-0.25) + 1.5 * sigmoid(1.0)
    assert float(unpaired.loss_sum) == pytest.approx(expected_sum, rel=1e-12)
    assert "kl" not in unpaired.metrics


def test_a_side_without_answers_has_no_weight() -> None:
    output = loss(kto(), torch.tensor([-2.0], dtype=torch.float64), batch_of([0], [], [-3.0]), 0.0)
    assert [float(weight) for _, weight in (output.metrics["rewards/chosen"], output.metrics["rewards/rejected"])] == [
        1,
        0,
    ]
    with pytest.raises(ValueError, match="carries no point"):
        kto().loss(Reading(torch.zeros(1, 2)), batch_of([0], [], [-3.0]))


def answer(prompt: list[int], ids: list[int]) -> EncodedSequence:
    return EncodedSequence(prompt + ids, [False] * len(prompt) + [True] * len(ids))


SAMPLES = [
    Sample("a", [], [answer([1, 2], [10]), answer([1, 2], [11, 12])], roles=(CHOSEN, REJECTED)),
    Sample("b#0", [Path("b.png")], [answer([3], [13, 14, 15, 16])], roles=(CHOSEN,)),
    Sample("b#1", [Path("b.png")], [answer([3], [17])], roles=(REJECTED,)),
    Sample("c", [Path("c.png")], [answer([3], [18])], roles=(REJECTED,)),
]


def test_mismatched_answers_are_those_of_other_prompts() -> None:
    made = mismatched_samples(SAMPLES, 4, str)
    assert [(one.id, one.image_paths, len(one.sequences)) for one in made] == [
        (one.id, one.image_paths, len(one.sequences)) for one in SAMPLES
    ]
    prompts = {10: 0, 11: 0, 13: 1, 17: 1, 18: 3}  # first token of an answer -> its prompt
    for one, sample in zip(made, SAMPLES, strict=True):
        for sequence, own in zip(one.sequences, sample.sequences, strict=True):
            length = own.prompt_length
            assert sequence.ids[:length] == own.ids[:length] and sequence.prompt_length == length
            assert len(sequence) <= 4 and sequence.num_answer_tokens == len(sequence) - length > 0
            assert prompts[sequence.ids[length]] != prompts[own.ids[length]], (
                "the same question about another image is another"
            )
    moved = [replace(one, image_paths=[Path("elsewhere") / path for path in one.image_paths]) for one in SAMPLES]
    again = mismatched_samples(moved, 4, lambda path: path.name)
    assert [one.sequences for one in again] == [one.sequences for one in made], "a run goes on wherever its data lie"


def test_mismatched_answers_of_one_prompt_alone() -> None:
    first, second = (Sample(f"a#{n}", [], [answer([1], [10 + n])], roles=(CHOSEN,)) for n in range(2))
    made = mismatched_samples([first, second], 9, str)
    assert [one.sequences[0].ids for one in made] == [[1, 11], [1, 10]]
    same = replace(second, sequences=first.sequences)
    with pytest.raises(UserError, match="record a#0: no other record has another answer.*apo_zero_unpaired"):
        mismatched_samples([first, same], 9, str)


def test_weights_out_of_balance_are_told() -> None:
    assert weight_hint(100, 100) is None and weight_hint(133, 100) is None and weight_hint(0, 0) is None
    assert (weight_hint(1000, 0) or "").startswith(
        "all 1,000 answers are desirable: how they differ from undesirable ones"
    )
    hint = weight_hint(100, 300) or ""
    assert "recipe.desirable_weight from 3.00 to 4.00, or recipe.undesirable_weight from 0.25 to 0.33, not both" in hint
    assert weight_hint(100, 300, 3.0) is None and weight_hint(100, 300, 1.0, 0.25) is None
    assert "weigh 2.00 times" in (kto(desirable_weight=2.0).hint({CHOSEN: 5, REJECTED: 5}) or "")


TURNS = (Turn(role="user", content="Which?"),)


def test_records_that_it_takes() -> None:
    labelled = LabelledExample(id="a", turns=TURNS, answer="This.", label=False)
    pair = PreferenceExample(id="b", turns=TURNS, chosen="This.", rejected="That.")
    single = TrainingExample(id="c", turns=(*TURNS, Turn(role="assistant", content="This.")))
    check_kind(LABELLED_ANSWERS, [labelled, pair], "x.jsonl", "kto", "labelled")
    with pytest.raises(UserError, match="holds single answers, but recipe=kto trains on labelled answers"):
        check_kind(LABELLED_ANSWERS, [pair, single], "x.jsonl", "kto", "labelled")
    encoder = SimpleNamespace(
        encode_answers=lambda turns, texts, attributes: [answer([1], [len(text)]) for text in texts],
        encode_preference=lambda example: [answer([1], [2]), answer([1], [3])],
    )
    assert [LABELLED_ANSWERS.encode(one, encoder).roles for one in (labelled, pair)] == [
        (REJECTED,),
        (CHOSEN, REJECTED),
    ]  # type: ignore[arg-type]
