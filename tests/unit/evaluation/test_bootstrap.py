import time

import numpy as np
import pytest

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.bootstrap import Whole, drawn, groups_of, mean_of, percentile_interval, resample
from nemo_mm_align.evaluation.resampled import run_figures
from nemo_mm_align.evaluation.statistics import Statistic, ratio


def answer(prompt, value=None, group="", **columns):
    values = {} if value is None else {"score": float(value)}
    return ScoredAnswer(prompt_id=prompt, values=values, group=group, columns=columns)


def test_groups_are_drawn_together_and_prompts_without_one_alone():
    one = [answer("a", 1, "x"), answer("b", 2, "x"), answer("c", 3), answer("x", 4)]
    groups = groups_of([one])
    assert groups.count == 3 and groups.of["a"] == groups.of["b"]
    assert len({groups.of[prompt] for prompt in ("a", "c", "x")}) == 3, "the group x is not the prompt x"


def test_what_a_method_failed_at_belongs_to_the_group_that_others_say():
    lost = ScoredAnswer(prompt_id="b", failed="safety")
    assert groups_of([[answer("a", 1, "x"), lost], [answer("a", 1, "x"), answer("b", 1, "x")]]).count == 1


def test_every_resample_draws_as_many_groups_as_there_are():
    weights = np.concatenate(list(drawn(7, 50, seed=0)))
    assert weights.shape == (50, 7) and (weights.sum(1) == 7).all()
    assert np.array_equal(weights, np.concatenate(list(drawn(7, 50, seed=0))))
    assert not np.array_equal(weights, np.concatenate(list(drawn(7, 50, seed=1))))


def test_chunks_change_the_size_of_the_parts_alone(monkeypatch):
    monkeypatch.setattr("nemo_mm_align.evaluation.bootstrap._CHUNK", 70)
    parts = list(drawn(7, 25, seed=0))
    assert [len(part) for part in parts] == [10, 10, 5]


def test_figures_of_each_resample_are_those_of_its_weights():
    answers = [answer(str(n), n, "abc"[n % 3], kept=n % 2, all=1) for n in range(9)]
    groups = groups_of([answers])
    mean = mean_of({one.prompt_id: one.values["score"] for one in answers}, groups)
    of_answers = np.array([groups.of[one.prompt_id] for one in answers])
    columns = {name: np.array([one.columns[name] for one in answers]) for name in ("kept", "all")}
    share = Whole(lambda weights: ratio("kept", "all")(weights, columns), of_answers)
    found = resample({"mean": mean, "share": share}, groups, resamples=20, seed=3)
    weights = np.concatenate(list(drawn(3, 20, seed=3)))[:, of_answers]
    values = np.array([one.values["score"] for one in answers])
    assert found["mean"] == pytest.approx((weights * values).sum(1) / weights.sum(1))
    assert found["share"] == pytest.approx((weights * columns["kept"]).sum(1) / weights.sum(1))


def test_a_statistic_is_computed_no_more_often_than_it_is_worth():
    calls = []

    def compute(weights, columns):
        calls.append(len(weights))
        return weights @ columns["one"]

    answers = [answer(str(n), one=1) for n in range(4)]
    found = run_figures({"base": answers}, [Statistic("s", ("one",), compute, resamples=30)])
    assert calls == [1, 30] and found.values["base", "s"].value == 4


def test_the_interval_of_a_mean_is_about_the_normal_one():
    generator = np.random.default_rng(0)
    values = generator.normal(size=400)
    estimate = run_figures({"base": [answer(f"{n:03d}", value) for n, value in enumerate(values)]}).values[
        "base", "score"
    ]
    half = 1.96 * values.std() / 20
    assert estimate.value == pytest.approx(values.mean()) and estimate.n == 400
    assert (estimate.interval.low, estimate.interval.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.01
    )


def test_copies_of_an_answer_in_one_group_do_not_narrow_the_interval():
    """Ten questions about each picture with the same outcome are worth one."""
    alone = [answer(f"{n}", n % 2) for n in range(40)]
    copied = [answer(f"{n}-{copy}", n % 2, group=str(n)) for n in range(40) for copy in range(10)]
    naive = [answer(f"{n}-{copy}", n % 2) for n in range(40) for copy in range(10)]

    def width(answers):
        interval = run_figures({"base": answers}).values["base", "score"].interval
        return interval.high - interval.low

    assert width(copied) == pytest.approx(width(alone), rel=0.1)
    assert width(naive) == pytest.approx(width(alone) / np.sqrt(10), rel=0.15)


def test_differences_are_of_what_both_have_and_share_the_resamples():
    base = [answer(str(n), n, hit=n % 2, all=1) for n in range(6)]
    dpo = [answer(str(n), n + 2, hit=1, all=1) for n in range(5)] + [answer("5")]
    rate = Statistic("rate", ("hit", "all"), ratio("hit", "all"))
    found = run_figures({"base": base, "dpo": dpo}, [rate], [("dpo", "base")])
    score, share = (found.differences[("dpo", "base"), name] for name in ("score", "rate"))
    assert (score.value, score.n, score.interval.low, score.interval.high) == (2, 5, 2, 2), "paired: no spread at all"
    assert (share.value, share.n) == (pytest.approx(1 - 2 / 5), 5)
    assert score.p_value == pytest.approx(2 / 2**5), "all signs alike, or none"


def test_what_cannot_be_told_has_no_interval():
    assert percentile_interval(np.array([np.nan, np.nan, 1.0])) is None
    assert percentile_interval(np.array([np.nan, 1.0, 1.0, 1.0])) == (1, 1)
    nothing = Statistic("s", ("none",), ratio("none", "none"))
    found = run_figures({"base": [answer("a", 1, none=0)]}, [nothing])
    assert list(found.values) == [("base", "score")] and found.values["base", "score"].interval is None


def test_thousands_of_answers_take_no_patience():
    generator = np.random.default_rng(0)
    answers = [
        ScoredAnswer(prompt_id=f"{n:05d}", values={f"m{k}": float(generator.random() < 0.5) for k in range(8)})
        for n in range(8910)
    ]
    start = time.process_time()
    found = run_figures({"base": answers})
    assert len(found.values) == 8 and found.resampling.groups == 8910
    assert time.process_time() - start < 5, "0.2 s on one core of 2026"
