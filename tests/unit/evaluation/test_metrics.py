import numpy as np
import pytest
from scipy import stats

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.intervals import interval_of, share_interval, t_interval
from nemo_mm_align.evaluation.metrics import SeedAnswers, text_ability
from nemo_mm_align.evaluation.tasks.rated import values_of
from nemo_mm_align.miniature.judged import JudgedAnswer
from tests.unit.evaluation.judged import (
    image_answer,
    method_answers,
    ratings,
    results_by_method,
    seed_answers,
    text_answer,
)


def one(answers, schema, name="base"):
    return results_by_method([SeedAnswers(seed=0, methods={name: answers})])[name]


def test_every_number_by_hand(helpsteer):
    answers = [
        image_answer(0, correctness=4, num_words=2, yes_no_correct=True, verbosity=0),
        image_answer(1, correctness=3, num_words=6, source="charts", verbosity=1),
        image_answer(
            2, correctness=0, num_words=1, yes_no_correct=False, absent=True, claims_presence=True, verbosity=2
        ),
        image_answer(
            3, correctness=4, num_words=3, yes_no_correct=True, absent=True, claims_presence=False, verbosity=3
        ),
        image_answer(
            4, correctness=4, num_words=3, yes_no_correct=True, absent=True, claims_presence=False, verbosity=4
        ),
        text_answer(0, True),
        text_answer(1, False),
        text_answer(2, False),
    ]
    result = one(answers, helpsteer)
    assert result.value("correctness") == pytest.approx(3 / 5)  # the 3 is not the highest
    assert result.value("hallucination") == pytest.approx(
        1 / 3
    )  # of three answers about absent objects one claims presence
    assert result.value("yes_no_accuracy") == pytest.approx(3 / 4)
    assert result.text_score == pytest.approx(1 / 3)
    assert result.value("length_words") == 3  # text answers do not enter
    judged = {"helpfulness": 3, "correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 2}
    assert {name: result.value(f"judged.{name}") for name in judged} == judged
    assert result.score == 3 + 3 + 4
    by_source = {"easy_vqa": pytest.approx(3 / 4), "charts": 0}
    assert {source: result.value(f"correctness_by_source.{source}") for source in by_source} == by_source
    counts = {
        name: result.measurements[name].n for name in ("correctness", "yes_no_accuracy", "hallucination", "text_score")
    }
    assert counts == {"correctness": 5, "yes_no_accuracy": 4, "hallucination": 3, "text_score": 3}


def test_nothing_to_measure_is_none_not_zero(helpsteer):
    result = one([image_answer(0)], helpsteer)
    assert (result.value("hallucination"), result.value("yes_no_accuracy"), result.text_score) == (None, None, None)
    assert "hallucination" not in result.measurements and result.value("correctness") == 1
    only_text = one([text_answer(0, True)], helpsteer)
    assert (only_text.text_score, only_text.score, set(only_text.measurements)) == (1, None, {"text_score"})


def test_intervals_over_seeds_are_students(helpsteer):
    seeds = [seed_answers(seed, base=0.5, dpo=0.8) for seed in range(5)]
    result = results_by_method(seeds)["dpo"]
    per_seed = result.measurements["correctness"].per_seed
    assert len(per_seed) == 5 and result.value("correctness") == pytest.approx(np.mean(per_seed))
    half = stats.t.ppf(0.975, 4) * np.std(per_seed, ddof=1) / np.sqrt(5)
    interval = result.measurements["correctness"].interval
    assert (interval.over, interval.low, interval.high) == (
        "seeds",
        pytest.approx(result.value("correctness") - half),
        pytest.approx(result.value("correctness") + half),
    )


def test_interval_of_a_single_run_is_over_prompts(helpsteer):
    result = results_by_method([seed_answers(base=0.5)])["base"]
    assert {one.interval.over for one in result.measurements.values() if one.interval} == {"prompts"}
    low, high = share_interval([1.0] * 10)
    assert low == pytest.approx(0.7225, abs=1e-4) and high == 1  # Wilson: agreement of ten is not certainty
    assert t_interval([1, 2, 3]) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert t_interval([1]) is None and interval_of([[1.0]], share=True) is None


def test_differences_to_the_base_are_paired(helpsteer):
    base = [image_answer(number, correctness=number % 5) for number in range(10)]
    better = [image_answer(number, correctness=min(4, number % 5 + 1)) for number in range(10)]
    shuffled = [better[index] for index in np.random.default_rng(0).permutation(10)]
    results = results_by_method([SeedAnswers(seed=0, methods={"base": base, "dpo": shuffled})])
    assert results["dpo"].measurements["score"].minus_base == pytest.approx(0.8)
    interval = results["dpo"].measurements["score"].minus_base_interval
    paired = [1] * 8 + [0] * 2  # unpaired differences would spread five times as far
    assert (interval.low, interval.high) == pytest.approx(t_interval(paired))
    assert interval.excludes_zero and results["base"].measurements["score"].minus_base is None


def test_differences_over_seeds(helpsteer):
    seeds = [seed_answers(seed, base=0.2, dpo=0.9) for seed in range(3)]
    dpo, base = (results_by_method(seeds)[name] for name in ("dpo", "base"))
    difference = np.subtract(dpo.measurements["correctness"].per_seed, base.measurements["correctness"].per_seed)
    assert dpo.measurements["correctness"].minus_base == pytest.approx(difference.mean())
    interval = dpo.measurements["correctness"].minus_base_interval
    assert interval.over == "seeds" and (interval.low, interval.high) == pytest.approx(t_interval(difference))


def test_methods_must_have_answered_the_same_prompts(helpsteer):
    base = method_answers(0.5, 0)
    with pytest.raises(UserError, match="dpo, seed 7: its prompts are not those of base .1 differ, .*image-003"):
        results_by_method([SeedAnswers(seed=7, methods={"base": base, "dpo": base[:3] + base[4:]})])
    with pytest.raises(UserError, match="base, seed 7: a prompt is answered twice"):
        results_by_method([SeedAnswers(seed=7, methods={"base": [*base, base[0]]})])
    with pytest.raises(UserError, match="seed 1 ran base, dpo, seed 0 ran base"):
        results_by_method([seed_answers(0, base=0.5), seed_answers(1, base=0.5, dpo=0.5)])
    with pytest.raises(UserError, match="no answers"):
        results_by_method([])


def test_incomplete_ratings_name_the_prompt(helpsteer):
    with pytest.raises(UserError, match="prompt image-003: no value for correctness"):
        values_of({"helpfulness": 4}, helpsteer, "image-003")


def test_an_answer_that_nobody_could_score_is_missing_and_counted(helpsteer):
    base = [image_answer(number, correctness=number % 5) for number in range(40)]
    dpo = [image_answer(number, correctness=4) for number in range(39)]
    failed = ScoredAnswer(prompt_id="image-039", kind="image prompts", failed="safety")
    results = results_by_method([SeedAnswers(seed=0, methods={"base": base, "dpo": [*dpo, failed]})])
    score = results["dpo"].measurements["score"]
    assert (score.n, score.failed, results["base"].measurements["score"].failed) == (39, 1, 0)
    assert score.failed_share == 1 / 40 and not score.unreliable
    assert score.value == 3 + 4 + 4, "not 0 for the one that is missing"
    assert score.minus_base == pytest.approx(np.mean([4 - number % 5 for number in range(39)])), "of what both have"
    with pytest.raises(ValueError, match="neither values nor ratings"):
        ScoredAnswer(prompt_id="a", failed="safety", values={"score": 1})


@pytest.mark.parametrize("who", ["base", "dpo"])
def test_more_than_one_failure_in_twenty_is_not_compared(helpsteer, who):
    def answers(failed):
        lost = [ScoredAnswer(prompt_id=f"image-{n:03d}", kind="image prompts", failed="safety") for n in range(failed)]
        return [*lost, *(image_answer(number, correctness=number % 5) for number in range(failed, 40))]

    def compared(failed):
        methods = {"base": answers(0), "dpo": answers(0), who: answers(failed)}
        results = results_by_method([SeedAnswers(seed=0, methods=methods)])
        assert results[who].measurements["score"].failed_share == failed / 40
        return results["dpo"].measurements["score"]

    assert compared(2).minus_base == 0 and not compared(2).unreliable  # 5 % are let pass
    assert compared(3).minus_base is None and compared(3).minus_base_interval is None


def test_text_ability_before_and_after_visual_tuning(helpsteer):
    seeds = [seed_answers(seed, base=0.5) for seed in range(2)]
    for seed, share in zip(seeds, (0.75, 0.5), strict=True):
        seed.text_before = [text_answer(number, number < 4 * share) for number in range(4)]
    ability = text_ability(seeds)
    assert ability.before_visual_tuning == 0.625 and ability.per_seed["before_visual_tuning"] == [0.75, 0.5]
    assert ability.after_visual_tuning == results_by_method(seeds)["base"].text_score
    assert text_ability([seed_answers(base=0.5)]).before_visual_tuning is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "image", "ratings": ratings(), "absent": True}, "claims_presence"),
        ({"kind": "image", "ratings": ratings(), "claims_presence": False}, "claims_presence"),
        ({"kind": "image"}, "ratings"),
        ({"kind": "text"}, "text_ok"),
        ({"kind": "text", "text_ok": True, "ratings": ratings()}, "ratings"),
    ],
)
def test_inconsistent_answer_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        JudgedAnswer(prompt_id="a", **settings)
