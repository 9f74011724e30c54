"""Pairs beyond the paper's rule, wrong labels, shares of a set, and what the summary says of scores and lengths."""

from itertools import pairwise

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.ablations import flip
from nemo_mm_align.datasets.build_settings import PAIR_METHODS, BuildSettings
from nemo_mm_align.datasets.builders import BUILDERS, build
from nemo_mm_align.schema.examples import PreferenceExample
from nemo_mm_align.schema.records import Turn
from tests.unit.test_builders import BEST, FAIR, GOOD, POOR, annotation, dropped, rated


def named(*letters_and_scores, name="p", schema):
    return annotation(schema, *(rated(text, *scores) for text, scores in letters_and_scores), name=name)


def texts(pairs) -> list[tuple[str, str]]:
    return [(pair.chosen, pair.rejected) for pair in pairs]


def many(schema, count=40):
    candidates = (("best answer of all", BEST), ("good", GOOD), ("fair", FAIR), ("poor", POOR))
    return [named(*candidates, name=str(index), schema=schema) for index in range(count)]


def test_best_against_worst(helpsteer):
    given = named(("good", GOOD), ("best", BEST), ("poor", POOR), ("fair", FAIR), ("poor too", POOR), schema=helpsteer)
    (pair,), _ = build(BuildSettings(name="best_worst"), [given], helpsteer)
    assert (pair.chosen, pair.rejected, pair.chosen_score, pair.rejected_score) == ("best", "poor", 12, 2)
    assert pair.metadata == {"prompt_id": "p", "judge": "j", "chosen": 1, "rejected": 2}
    ratings = [given.candidates[place].ratings for place in (1, 2)]
    assert [pair.chosen_ratings, pair.rejected_ratings] == ratings and ratings[0] != ratings[1]
    assert [flip(pair).chosen_ratings, flip(pair).rejected_ratings] == ratings[::-1]


def test_all_pairs_above_the_margin(helpsteer):
    given = named(("poor", POOR), ("best", BEST), ("good", GOOD), ("best", POOR), ("fair", FAIR), schema=helpsteer)
    pairs, _ = build(BuildSettings(name="all_pairs"), [given], helpsteer)
    assert texts(pairs) == [("best", "poor"), ("best", "fair"), ("good", "poor"), ("fair", "poor")]
    assert [pair.id for pair in pairs] == ["p#1-0", "p#1-4", "p#2-0", "p#4-0"]
    assert all(pair.chosen_score - pair.rejected_score >= 2 for pair in pairs)
    wide, _ = build(BuildSettings(name="all_pairs", margin=9), [given], helpsteer)
    assert texts(wide) == [("best", "poor"), ("good", "poor")]
    few, summary = build(BuildSettings(name="all_pairs", max_pairs=2), [given], helpsteer)
    assert len(few) == 2 and set(texts(few)) < set(texts(pairs))
    assert dropped(summary) == {("pair", "more than 2 of a prompt"): 2}


@pytest.mark.parametrize("name", PAIR_METHODS)
def test_strict_asks_for_more_than_the_margin(helpsteer, name):
    given = named(("best", BEST), ("fair", FAIR), schema=helpsteer)
    assert len(build(BuildSettings(name=name, margin=2), [given], helpsteer)[0]) == 1
    remedy = "no candidate more than 2 below the best(.|\n)*scores? .*go from 0 to 12; a lower method.margin keeps more"
    with pytest.raises(UserError, match=f"(?i){remedy}"):
        build(BuildSettings(name=name, margin=2, strict=True), [given], helpsteer)


def test_fractions_reach_a_margin_that_rounding_would_miss():
    from tests.unit.test_attributes import fractions

    schema = fractions("a", "b")
    ratings = [{"a": 0.1, "b": 0.2}, {"a": 0.0, "b": 0.0}]
    given = annotation(schema, *(rated(text, 0, 0, 0) for text in "xy"))
    candidates = [item.model_copy(update={"ratings": r}) for item, r in zip(given.candidates, ratings, strict=True)]
    given = given.model_copy(update={"candidates": tuple(candidates)})
    assert 0.1 + 0.2 > 0.3
    for margin, strict, pairs in ((0.3, False, 1), (0.29, True, 1), (0.3, True, 0)):
        settings = BuildSettings(name="preference", margin=margin, strict=strict)
        if pairs:
            assert len(build(settings, [given], schema)[0]) == 1
        else:
            with pytest.raises(UserError, match="no example is left"):
                build(settings, [given], schema)
    with pytest.raises(UserError, match=r"go from 0 to 2\. .*method.margin=0.333"):
        build(BuildSettings(name="preference", margin=4), [given], schema)


@pytest.mark.parametrize(("rate", "count"), [(0.25, 10), (0.5, 20), (0.75, 30), (1.0, 40), (0.26, 10), (0.01, 0)])
def test_label_noise_swaps_exactly_its_share(helpsteer, rate, count):
    clean, _ = build(BuildSettings(name="best_worst"), many(helpsteer), helpsteer)
    noisy, summary = build(BuildSettings(name="best_worst", label_noise=rate), many(helpsteer), helpsteer)
    assert len(summary.flipped) == count and len(noisy) == 40
    for before, after in zip(clean, noisy, strict=True):
        swapped = before.id in summary.flipped
        assert after == (flip(before) if swapped else before) and after.metadata.get("flipped", False) == swapped
    if summary.flipped:
        pair = next(pair for pair in noisy if pair.id == summary.flipped[0])
        assert (pair.chosen, pair.chosen_score, pair.metadata["chosen"]) == ("poor", 2, 3)


def test_more_noise_keeps_the_swaps_of_less(helpsteer):
    flipped = []
    for rate in (0.25, 0.5, 0.75):
        settings = BuildSettings(name="preference", label_noise=rate)
        flipped.append(set(build(settings, many(helpsteer), helpsteer)[1].flipped))
    assert all(less < more for less, more in pairwise(flipped))
    other = build(BuildSettings(name="preference", label_noise=0.25, seed=2), many(helpsteer), helpsteer)[1]
    assert set(other.flipped) != flipped[0]
    with pytest.raises(ValueError, match="label_noise swaps the answers of pairs; method=sft makes none"):
        BuildSettings(name="sft", label_noise=0.1)


def test_swapping_carries_reference_log_probs_along():
    turns = (Turn(role="user", content="q"),)
    pair = PreferenceExample(id="1", turns=turns, chosen="a", rejected="b", reference_chosen_log_prob=-1)
    assert flip(pair).reference_rejected_log_prob == -1 and flip(pair).reference_chosen_log_prob is None
    assert flip(pair).metadata == {"flipped": True}


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_shares_of_a_set_lie_inside_larger_ones(helpsteer, name):
    given = [item.model_copy(update={"reference_answer": "gold"}) for item in many(helpsteer)]
    whole, _ = build(BuildSettings(name=name), given, helpsteer)
    sets = []
    for fraction in (0.25, 0.5, 0.75):
        examples, summary = build(BuildSettings(name=name, fraction=fraction), given, helpsteer)
        assert len(examples) == summary.kept == round(fraction * len(whole))
        assert dropped(summary)["example", f"outside fraction={fraction:g}"] == len(whole) - len(examples)
        assert [example for example in whole if example in examples] == examples
        sets.append({example.id for example in examples})
    assert sets[0] < sets[1] < sets[2]


def test_noise_is_a_share_of_what_is_kept(helpsteer):
    settings = BuildSettings(name="preference", fraction=0.5, label_noise=0.25)
    examples, summary = build(settings, many(helpsteer), helpsteer)
    assert len(examples) == 20 and len(summary.flipped) == 5
    assert set(summary.flipped) <= {example.id for example in examples}


def test_wrong_ratings_of_an_exact_share_of_the_prompts_lead_every_method_astray(helpsteer):
    settings = {"rating_noise": 0.25, "seed": 7}
    clean, _ = build(BuildSettings(name="best_worst", seed=7), many(helpsteer), helpsteer)
    pairs, _ = build(BuildSettings(name="best_worst", **settings), many(helpsteer), helpsteer)
    wrong = {after.id for before, after in zip(clean, pairs, strict=True) if after.chosen == before.rejected}
    assert len(wrong) == 10 and {pair.id for pair in pairs if pair not in clean} == wrong
    answers, _ = build(BuildSettings(name="rejection", **settings), many(helpsteer), helpsteer)
    taken = {answer.id for answer in answers if answer.turns[-1].content != clean[0].chosen}
    assert taken == wrong, "the same prompts, whatever the method"
    more, _ = build(BuildSettings(name="best_worst", rating_noise=0.5, seed=7), many(helpsteer), helpsteer)
    assert wrong < {pair.id for pair in more if pair not in clean}


def test_length_bias_is_warned_of(helpsteer):
    _, summary = build(BuildSettings(name="best_worst"), many(helpsteer), helpsteer)
    (warning,) = summary.warnings
    assert "the chosen answer is the longer one in 100% of the pairs" in warning
    assert summary.lengths.content() == {"chosen_longer": 40, "chosen_shorter": 0, "equal": 0}
    assert (summary.sides["chosen"].lengths.mean, summary.sides["rejected"].lengths.mean) == (18, 4)
    assert "chosen: score 12.00 (standard deviation 0.00), 18 characters" in summary.table()
    _, summary = build(BuildSettings(name="best_worst", label_noise=0.5), many(helpsteer), helpsteer)
    assert summary.warnings == [] and summary.lengths.longer == 20
    _, summary = build(BuildSettings(name="best_worst"), many(helpsteer, count=5), helpsteer)
    assert summary.warnings == [], "five pairs say nothing"


def test_scores_are_distributed_over_bins(helpsteer):
    _, summary = build(BuildSettings(name="all_pairs"), many(helpsteer, count=1), helpsteer)
    chosen = summary.sides["chosen"].content()["score"]
    assert chosen["bins"] == {"10": 1, "11": 1, "12": 2} and chosen["mean"] == 11.25
    assert chosen["deviation"] == pytest.approx((11 / 16) ** 0.5)


def test_share_of_prompts_stands_beside_the_papers(helpsteer):
    given = [*many(helpsteer, count=3), named(("best", BEST), ("good", GOOD), name="close", schema=helpsteer)]
    _, summary = build(BuildSettings(name="preference"), given, helpsteer)
    assert summary.paper() == "75% of the prompts gave an example; in the paper 86% (5,182 of 6,000)"
    assert build(BuildSettings(name="all_pairs"), given, helpsteer)[1].paper() is None
    assert build(BuildSettings(name="all_pairs"), given, helpsteer)[1].prompts_kept == 3


def test_a_schema_without_a_score_ranks_nothing(helpsteer):
    schema = helpsteer.model_copy(update={"score": ()})
    for name in ("rejection", *PAIR_METHODS):
        with pytest.raises(UserError, match="empty score.*score: \\[helpfulness\\]"):
            build(BuildSettings(name=name), many(schema), schema)
    assert len(build(BuildSettings(name="steerlm_paper"), many(schema, count=2), schema)[0]) == 8
