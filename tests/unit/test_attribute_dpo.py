"""attribute_dpo: its loss by hand, its samples, and the pairs that are built for it."""

from __future__ import annotations

import math

import pytest
import torch

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.build_attribute_pairs import utility
from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.datasets.builders import build
from nemo_mm_align.datasets.candidates import Scored
from nemo_mm_align.datasets.collate import collate
from nemo_mm_align.datasets.kinds import ATTRIBUTE_PAIRS
from nemo_mm_align.datasets.sources import SourceSettings, read_examples
from nemo_mm_align.objectives.objective import Reading
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.examples import PreferenceExample, TrainingExample
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Annotation, Turn, write_records
from tests.unit.test_build_steerlm import annotation, candidate
from tests.unit.toy_tokenizers import word_level

LINE, FLIP = {"complexity": 1.0, "verbosity": 0.0}, {"complexity": 1.0, "verbosity": 4.0}


@pytest.fixture
def taste(helpsteer: AttributeSchema) -> AttributeSchema:
    line = "Attributes:\n{attributes}"
    return helpsteer.model_copy(update={"steered": ("complexity", "verbosity"), "steering": line})


@pytest.fixture
def encoder(taste: AttributeSchema) -> Encoder:
    template = ChatTemplate(
        name="t", user_prefix="USER: ", user_suffix=" ", assistant_prefix="ASSISTANT: ", stop="</s>"
    )
    tokenizer = word_level()
    return Encoder(tokenizer, template, tokenizer.convert_tokens_to_ids("<image>"), 4, taste)


def pair(name: str, line: dict[str, float] | None = None, flip: dict[str, float] | None = None) -> PreferenceExample:
    turns = (Turn(role="user", content="What is in the image?"),)
    lines = {"attributes": line, "flip_attributes": flip}
    return PreferenceExample(id=name, turns=turns, chosen="yes", rejected="A red circle .", **lines)


def batch_of(encoder: Encoder, *pairs: PreferenceExample, shared: bool = True) -> Batch:
    samples = [ATTRIBUTE_PAIRS.encode(example, encoder) for example in pairs]
    for sample in samples:
        sample.reference_log_probs = [-2.0] * len(sample.sequences)
    length = 200
    return collate(samples, length, 0, encoder.image_token_id, 4, None, shared, roles=ATTRIBUTE_PAIRS.roles)


def reading_of(batch: Batch, log_probs: list[float]) -> Reading:
    """Token losses that add up to these log-probs per sequence: all on the first labelled token of each."""
    counts_Q = batch.sum_per_sequence((batch.labels_BS >= 0).double())
    per_token_Q = -torch.tensor(log_probs, dtype=torch.float64) / counts_Q
    losses_N = torch.zeros(batch.labels_BS.numel(), dtype=torch.float64)
    sequence_A = torch.repeat_interleave(torch.arange(len(log_probs)), batch.places.lengths_Q)
    losses_N[batch.places.answer_A] = per_token_Q[sequence_A]
    return Reading((losses_N.reshape(batch.labels_BS.shape)) * (batch.labels_BS >= 0))


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


@pytest.mark.parametrize("shared", [True, False])
def test_the_loss_is_what_its_docstring_says(encoder: Encoder, shared: bool) -> None:
    """Log-ratios to the reference: .5 and -1 of the pair without a flip line; 1, 0 under c, .25, -.5 under c'."""
    batch = batch_of(encoder, pair("plain"), pair("flip", LINE, FLIP), shared=shared)
    ratios = [0.5, -1.0, 1.0, 0.0, 0.25, -0.5]
    reading = reading_of(batch, [ratio - 2 for ratio in ratios])
    pairs = softplus(-0.2 * 1.5) + softplus(-0.2 * 1.0) + softplus(-0.2 * 0.75)
    contrast = softplus(-0.2 * 1.5) + softplus(-0.2 * 0.25)  # chosen: 1 against -.5; rejected: .25 against 0
    anchor = softplus(-0.2 * 0.5) + softplus(-0.2 * 1.0) + softplus(-0.2 * 0.25)
    for weights, expected in (
        ({"contrast_weight": 0.0, "anchor_weight": 0.0}, pairs),
        ({"contrast_weight": 0.5, "anchor_weight": 0.0}, pairs + 0.5 * contrast),
        ({"contrast_weight": 0.5, "anchor_weight": 2.0}, pairs + 0.5 * contrast + 2 * anchor),
    ):
        recipe = find_recipe("attribute_dpo").configured(beta=0.2, sft_loss_weight=0.0, **weights)
        output = recipe.loss(reading, batch)
        assert float(output.loss_sum) == pytest.approx(expected, rel=1e-6)
        assert int(output.count) == 3, "a pair under each line"
        assert ("loss_contrast" in output.metrics) == (weights["contrast_weight"] > 0)
        assert float(output.metrics["reward_accuracy"][0]) == 3


def test_without_flip_lines_and_further_terms_it_is_dpo(encoder: Encoder) -> None:
    batch = batch_of(encoder, pair("a"), pair("b", LINE))
    reading = reading_of(batch, [-1.0, -4.0, -2.5, -2.0])
    recipe = find_recipe("attribute_dpo").configured(sft_loss_weight=0.3, contrast_weight=1.0)
    same = find_recipe("dpo").configured(sft_loss_weight=0.3)
    assert float(recipe.loss(reading, batch).loss_sum) == pytest.approx(
        float(same.loss(reading, batch).loss_sum), rel=1e-9
    )


def test_a_sample_holds_the_same_answers_under_both_lines(encoder: Encoder) -> None:
    sample = ATTRIBUTE_PAIRS.encode(pair("flip", LINE, FLIP), encoder)
    assert sample.roles == ("chosen", "rejected", "chosen", "rejected")
    prompts = [encoder.encode_prompt(pair("x").turns, line) for line in (LINE, LINE, FLIP, FLIP)]
    for sequence, prompt in zip(sample.sequences, prompts, strict=True):
        assert sequence.ids[: len(prompt)] == prompt and sequence.prompt_length == len(prompt)
    answers = [sequence.ids[len(prompt) :] for sequence, prompt in zip(sample.sequences, prompts, strict=True)]
    assert answers[0] == answers[3] and answers[1] == answers[2] and answers[0] != answers[1]
    assert len(ATTRIBUTE_PAIRS.encode(pair("plain"), encoder).sequences) == 2


def test_records_of_pairs_may_carry_a_flip_line(tmp_path, taste: AttributeSchema) -> None:
    path = tmp_path / "pairs.jsonl"
    write_records(path, [pair("flip", LINE, FLIP)])
    assert read_examples(SourceSettings(path=str(path)), taste) == [pair("flip", LINE, FLIP)]
    line = '{"id": "x", "turns": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b", %s}\n'
    for lines, message in (
        (
            '"attributes": {"complexity": 1, "verbosity": 0}, "flip_attributes": {"complexity": 1}',
            "no value for verbosity",
        ),
        (
            '"flip_attributes": {"complexity": 1, "verbosity": 0}',
            "must differ from attributes, which the record must have",
        ),
        ('"attributes": {"complexity": 1, "verbosity": 9}', "verbosity=9 is outside 0 to 4"),
    ):
        path.write_text(line % lines)
        with pytest.raises(UserError, match=message):
            read_examples(SourceSettings(path=str(path)), taste)


def built(schema: AttributeSchema, given: list[Annotation], **settings: object) -> list[PreferenceExample]:
    fields = {"lines": 1, "unasked_share": 0.0, "margin": 2} | settings
    return build(BuildSettings(name="attribute_preference", **fields), given, schema)[0]  # type: ignore[return-value,arg-type]


def test_utility_is_score_less_weighted_deviation(taste: AttributeSchema) -> None:
    item = Scored(0, "a", {"complexity": 3.0, "verbosity": 1.0}, 11.0)
    assert utility(item, {"complexity": 1.0, "verbosity": 0.0}, 4.0) == 11 - 4 * (2 + 1)
    assert utility(item, None, 4.0) == 11


def test_the_line_decides_which_answer_is_the_better_one(taste: AttributeSchema) -> None:
    """Two answers alike in score: each is chosen under its own line, and the other's line is the flip line."""
    given = [
        annotation(taste, f"p{number}", candidate("brief", 12, 0, 0), candidate("long", 11, 0, 4))
        for number in range(40)
    ]
    pairs = built(taste, given)
    assert len(pairs) == 40 and {found.chosen for found in pairs} == {"brief", "long"}
    for found in pairs:
        brief = found.chosen == "brief"
        lines = [{"complexity": 0, "verbosity": 0}, {"complexity": 0, "verbosity": 4}]
        assert [found.attributes, found.flip_attributes] == (lines if brief else lines[::-1])
        assert found.chosen_score == (12 if brief else 11)
        assert found.rejected_score == (11 if brief else 12) - 4 * 4
    assert all(found.flip_attributes is None for found in built(taste, given, flips=False))


def test_a_poor_answer_is_never_preferred_for_its_style(taste: AttributeSchema) -> None:
    given = [annotation(taste, "p", candidate("right", 12, 0, 0), candidate("wrong", 5, 0, 4))]
    (found,) = built(taste, given)
    assert (found.chosen, found.attributes, found.flip_attributes) == ("right", {"complexity": 0, "verbosity": 0}, None)
    (loose,) = built(taste, given, flip_score_gap=7.0)
    assert loose.flip_attributes == {"complexity": 0, "verbosity": 4}


def test_pairs_of_one_style_differ_in_quality_and_have_no_flip_line(taste: AttributeSchema) -> None:
    given = [annotation(taste, "p", candidate("right", 12, 2, 2), candidate("wrong", 4, 2, 2))]
    (found,) = built(taste, given)
    assert (found.chosen, found.flip_attributes, found.rejected_score) == ("right", None, 4)


def test_candidates_sampled_under_a_line_are_compared_under_it(taste: AttributeSchema) -> None:
    """The better answer by score missed the style by one step: 12 - 4 against 11."""
    given = annotation(taste, "p", candidate("missed", 12, 2, 3), candidate("hit", 11, 2, 2))
    given = given.model_copy(update={"asked": {"complexity": 2.0, "verbosity": 2.0}})
    (found,) = built(taste, [given])
    assert (found.chosen, found.attributes) == ("hit", {"complexity": 2, "verbosity": 2})
    assert found.flip_attributes == {"complexity": 2, "verbosity": 3}


def test_a_share_asks_for_nothing_and_the_summary_counts(taste: AttributeSchema) -> None:
    given = [
        annotation(taste, f"p{number:03d}", candidate("best", 12, 0, 0), candidate("poor", 3, 0, 0))
        for number in range(200)
    ]
    settings = BuildSettings(name="attribute_preference", lines=1, unasked_share=0.3)
    pairs, summary = build(settings, given, taste)
    unasked = sum(found.attributes is None for found in pairs)
    assert len(pairs) == 200 and 40 < unasked < 80
    assert +summary.pair_kinds == {"unasked": unasked, "asked": 200 - unasked}
    again, _ = build(settings, given[::-1], taste)
    assert again == pairs[::-1]
    few = annotation(taste, "p", candidate("best", 12, 0, 0), candidate("good", 11, 0, 0))
    with pytest.raises(UserError, match="no candidate 2 below the best under its line"):
        build(settings, [few], taste)


def test_answers_to_texts_are_compared_by_score_whatever_is_asked(taste: AttributeSchema) -> None:
    given = [
        annotation(taste, f"t{number}", candidate("right", 12, 0, 0), candidate("fits", 3, 0, 4), image=False)
        for number in range(30)
    ]
    asked = [one.model_copy(update={"asked": {"complexity": 0.0, "verbosity": 4.0}}) for one in given]
    for each in (given, asked):
        pairs = built(taste, each, unasked_share=0.2)
        assert {(found.chosen, found.flip_attributes) for found in pairs} == {("right", None)} and len(pairs) == 30
        assert {found.attributes is None for found in pairs} == {True, False}
    heeded = built(taste, asked, replay_annotated=False)
    assert {found.chosen for found in heeded} == {"fits"}, "12 less 16 for four steps against 3"


def test_no_pair_of_a_prompt_is_written_twice(taste: AttributeSchema) -> None:
    given = annotation(taste, "p", candidate("right", 12, 2, 2), candidate("wrong", 4, 2, 2))
    given = given.model_copy(update={"asked": {"complexity": 2.0, "verbosity": 2.0}})
    settings = BuildSettings(name="attribute_preference", lines=3, unasked_share=0.0)
    pairs, summary = build(settings, [given], taste)
    assert len(pairs) == 1 and summary.dropped["pair", "the same pair of the prompt again"] == 2
    assert summary.prompts_kept == 1 and +summary.pair_kinds == {"asked": 1}


def test_words_that_look_like_a_short_line_are_words(tmp_path, taste: AttributeSchema) -> None:
    """ "Attributes:" begins a line of the schema only where values follow it."""
    question = "Describe the product.\nAttributes: colour, size"
    turns = (Turn(role="user", content=question), Turn(role="assistant", content="red"))
    path = tmp_path / "rows.jsonl"
    for values in (None, LINE):
        write_records(path, [TrainingExample(id="a", turns=turns, attributes=values)])
        (found,) = read_examples(SourceSettings(path=str(path)), taste)
        assert found.turns[0].content == question and found.attributes == values
    asked = turns[0].model_copy(update={"content": f"{question}\n{taste.steering_line(LINE)}"})
    write_records(path, [TrainingExample(id="a", turns=(asked, turns[1]))])
    (found,) = read_examples(SourceSettings(path=str(path)), taste)
    assert found.turns[0].content == question and found.attributes == LINE
    twice = asked.model_copy(update={"content": f"{asked.content}\n{taste.steering_line(LINE)}"})
    write_records(path, [TrainingExample(id="a", turns=(twice, turns[1]))])
    with pytest.raises(UserError, match="carries the attribute line 2 times"):
        read_examples(SourceSettings(path=str(path)), taste)
