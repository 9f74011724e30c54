import numpy as np
import pytest
from scipy import stats

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.steering import steering_results
from tests.unit.evaluation.judged import image_answer

DEFAULTS = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 2}


def steered(number, judged, **asked):
    return image_answer(number, verbosity=judged, asked={**DEFAULTS, **asked})


def sweep(seed, obedience, prompts=30):
    """Answers to verbosity 0-4: judged as asked with probability `obedience`, at random otherwise."""
    generator = np.random.default_rng(seed)
    return [
        steered(number, asked if generator.random() < obedience else int(generator.integers(5)), verbosity=asked)
        for asked in range(5)
        for number in range(prompts)
    ]


def results(*answers_per_seed, schema):
    return steering_results(answers_per_seed, schema)


def test_curve_and_correlation(helpsteer):
    answers = sweep(0, 0.5)
    result = results(answers, schema=helpsteer)["verbosity"]
    asked = np.repeat(np.arange(5), 30)
    judged = np.array([answer.ratings["verbosity"] for answer in answers])
    assert result.spearman == pytest.approx(stats.spearmanr(asked, judged).statistic)
    assert 0.3 < result.spearman < 0.7
    assert [point.asked for point in result.curve] == [0, 1, 2, 3, 4]
    assert [point.judged for point in result.curve] == pytest.approx(judged.reshape(5, 30).mean(axis=1))
    assert {point.count for point in result.curve} == {30}
    assert {point.interval.over for point in result.curve} == {"prompts"}


def test_perfect_reversed_and_deaf(helpsteer):
    def spearman(judged_of):
        answers = [steered(number, judged_of(number), verbosity=number) for number in range(5)]
        return results(answers, schema=helpsteer)["verbosity"].spearman

    assert spearman(lambda asked: asked) == pytest.approx(1)
    assert spearman(lambda asked: 4 - asked) == pytest.approx(-1)
    assert spearman(lambda asked: 2) == 0


def test_several_seeds(helpsteer):
    result = results(sweep(0, 0.2), sweep(1, 0.5), sweep(2, 0.8), schema=helpsteer)["verbosity"]
    assert result.spearman == pytest.approx(np.mean(result.spearman_per_seed))
    assert sorted(result.spearman_per_seed) == result.spearman_per_seed
    assert result.interval.over == "seeds" and result.interval.low < result.spearman < result.interval.high
    assert result.curve[0].count == 90 and result.curve[0].interval.over == "seeds"


def test_error_cross_talk_and_correlation_at_equal_length(helpsteer):
    """Judged verbosity is one above what was asked; complexity rises with it, half a step per step."""
    answers = [
        image_answer(
            number,
            verbosity=min(asked + 1, 4),
            complexity=asked // 2,
            num_words=3 * asked,
            asked={**DEFAULTS, "verbosity": asked},
        )
        for asked in range(5)
        for number in range(4)
    ]
    result = results(answers, answers, schema=helpsteer)["verbosity"]
    assert result.mae == pytest.approx(4 / 5) and result.mae_per_seed == pytest.approx([0.8, 0.8])
    assert result.cross_talk == {"complexity": pytest.approx(np.polyfit(range(5), [0, 0, 1, 1, 2], 1)[0])}
    assert result.at_equal_length is None, "words say all that was asked"
    assert [(point.words, point.score) for point in result.curve] == [(3 * asked, 11) for asked in range(5)]
    same_length = [answer.model_copy(update={"num_words": 7}) for answer in answers]
    assert results(same_length, schema=helpsteer)["verbosity"].at_equal_length == pytest.approx(result.spearman)


def test_partial_rank_correlation_is_that_of_residuals(helpsteer):
    """Of ranks: what is left of asked and judged when words are regressed out of both."""
    source = np.random.default_rng(1)
    asked = np.repeat(np.arange(5), 12)
    words = asked + source.integers(0, 9, 60)
    judged = np.clip((asked + words) // 3 + source.integers(0, 2, 60), 0, 4)
    answers = [
        image_answer(n, complexity=int(j), num_words=int(w), asked={**DEFAULTS, "complexity": int(a)})
        for n, (a, j, w) in enumerate(zip(asked, judged, words, strict=True))
    ]
    ranks = [stats.rankdata(values) for values in (asked, judged, words)]
    left, right = (one - np.polyval(np.polyfit(ranks[2], one, 1), ranks[2]) for one in ranks[:2])
    found = results(answers, schema=helpsteer)["complexity"].at_equal_length
    assert found == pytest.approx(np.corrcoef(left, right)[0, 1], abs=1e-9)


def test_only_swept_attributes_appear_and_defaults_count_for_all(helpsteer):
    answers = [steered(0, 2), steered(0, 0, verbosity=0), steered(0, 2, complexity=4)]
    found = results(answers, schema=helpsteer)
    assert list(found) == ["complexity", "verbosity"]
    assert [(point.asked, point.count) for point in found["verbosity"].curve] == [(0, 1), (2, 1)]
    assert [(point.asked, point.count) for point in found["complexity"].curve] == [(2, 1), (4, 1)]


def test_unclear_requests_are_refused(helpsteer):
    with pytest.raises(UserError, match="departs from the defaults in complexity, verbosity"):
        results([steered(0, 2, verbosity=0, complexity=0)], schema=helpsteer)
    with pytest.raises(UserError, match="does not say what was asked"):
        results([image_answer(0)], schema=helpsteer)
    assert results([], schema=helpsteer) == {}


def test_slope_range_and_prompts_that_follow(helpsteer):
    """Three prompts asked for 0, 2 and 4: judged 0 1 3 (follows), 1 1 3 (never against), 2 3 1 (against)."""
    judged = {0: (0, 1, 3), 1: (1, 1, 3), 2: (2, 3, 1)}
    answers = [
        image_answer(number, verbosity=value, complexity=4 - asked // 2, asked={**DEFAULTS, "verbosity": asked})
        for number, values in judged.items()
        for asked, value in zip((0, 2, 4), values, strict=True)
    ]
    result = results(answers, schema=helpsteer)["verbosity"]
    assert result.never_against == pytest.approx(2 / 3) and result.strictly_follows == pytest.approx(1 / 3)
    assert result.range == pytest.approx(7 / 3 - 1), "means 1, 5/3 and 7/3"
    assert result.slope == pytest.approx((7 / 3 - 1) / 4)
    assert result.matrix["complexity"] == pytest.approx(-0.5) == result.cross_talk["complexity"]
    assert list(result.matrix) == list(helpsteer.names) and result.matrix["verbosity"] == result.slope
    assert result.matrix["helpfulness"] == 0 and "helpfulness" not in result.cross_talk
    assert [point.correctness for point in result.curve] == [4, 4, 4]


def test_one_value_per_prompt_says_nothing_of_following(helpsteer):
    result = results([steered(number, number, verbosity=number) for number in range(5)], schema=helpsteer)["verbosity"]
    assert result.never_against is None and result.strictly_follows is None and result.never_against_interval is None
    assert result.slope == pytest.approx(1) and result.range == 4


def test_a_single_run_has_intervals_over_its_prompts(helpsteer):
    """Whole prompts are drawn: where all prompts behave alike there is no width, where they differ there is."""
    alike = [steered(number, asked // 2, verbosity=asked) for number in range(6) for asked in range(5)]
    result = results(alike, schema=helpsteer)["verbosity"]
    assert (result.interval.low, result.interval.high) == (pytest.approx(result.spearman),) * 2
    assert (result.slope_interval.low, result.slope_interval.high) == (pytest.approx(result.slope),) * 2
    result = results(sweep(0, 0.5), schema=helpsteer)["verbosity"]
    assert result.interval.over == "prompts" and result.interval.low < result.spearman < result.interval.high
    assert result.slope_interval.low < result.slope < result.slope_interval.high
    again = results(sweep(0, 0.5), schema=helpsteer)["verbosity"]
    assert again.interval == result.interval, "the seed decides"


def test_the_width_of_a_single_runs_interval_is_that_of_new_prompts(helpsteer):
    """Spearman of 60 further sets of 30 prompts: their spread is what the interval promises."""
    asked = np.repeat(np.arange(5), 30)
    drawn = [
        stats.spearmanr(asked, [answer.ratings["verbosity"] for answer in sweep(seed, 0.5)]).statistic
        for seed in range(100, 160)
    ]
    found = results(sweep(0, 0.5), schema=helpsteer)["verbosity"].interval
    assert (found.high - found.low) == pytest.approx(2 * 1.96 * np.std(drawn), rel=0.35)


def test_groups_of_prompts_are_drawn_together(helpsteer):
    """Of two groups a resample has one twice, or both: the interval goes from the lower one's figure to the higher one's."""
    answers = sweep(1, 0.5, prompts=20)
    of_group = [[answer for answer in answers if int(answer.prompt_id[-3:]) % 2 == part] for part in (0, 1)]
    ends = sorted(results(part, schema=helpsteer)["verbosity"].spearman for part in of_group)
    named = [one.model_copy(update={"group": f"g{int(one.prompt_id[-3:]) % 2}"}) for one in answers]
    found = results(named, schema=helpsteer)["verbosity"].interval
    assert (found.low, found.high) == (pytest.approx(ends[0]), pytest.approx(ends[1]))
    alike = [one.model_copy(update={"group": "one"}) for one in answers]
    assert results(alike, schema=helpsteer)["verbosity"].interval is None
