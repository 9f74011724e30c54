from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.failures import Failures
from nemo_mm_align.evaluation.statistics import Statistic, ratio

RATE = Statistic("rate", ("hit", "all"), ratio("hit", "all"))


def scored(prompt, *names, kind="prompts", **rest):
    return ScoredAnswer(prompt_id=prompt, kind=kind, values=dict.fromkeys(names, 1.0), **rest)


def failed(prompt, kind="prompts", **rest):
    return ScoredAnswer(prompt_id=prompt, kind=kind, failed="unparsable", **rest)


def test_a_failed_answer_counts_in_what_the_others_were_measured_by():
    base = [scored("a", "score", "category.math"), scored("b", "score", "category.code"), scored("c", "score")]
    found = Failures({"base": base, "dpo": [failed("a"), failed("b"), scored("c", "score")]})
    counts = {name: found.count("dpo", name) for name in ("score", "category.math", "category.code", "category.none")}
    assert counts == {"score": 2, "category.math": 1, "category.code": 1, "category.none": 0}
    assert found.count("base", "score") == 0


def test_what_is_missing_is_counted_there_alone():
    answers = [
        scored("a", "turn_1", missing=("turn_2",)),
        scored("b", "turn_1", "turn_2"),
        scored("c", "turn_1", "turn_2"),
    ]
    found = Failures({"base": answers})
    assert (found.count("base", "turn_2"), found.count("base", "turn_1")) == (1, 0)


def test_a_grouped_measure_may_be_missing_as_a_whole():
    base = [scored("a", "score", "category.math"), scored("b", "score", "category.code")]
    dpo = [scored("a", "score", missing=("category",)), scored("b", "score", "category.code")]
    found = Failures({"base": base, "dpo": dpo})
    assert (found.count("dpo", "category.math"), found.count("dpo", "category.code")) == (1, 0)


def test_where_nobody_was_scored_the_kind_of_prompt_tells():
    answers = [failed("a", "image"), scored("b", "score", kind="image"), scored("c", "text_score", kind="text")]
    found = Failures({"base": answers})
    assert (found.count("base", "score"), found.count("base", "text_score")) == (1, 0)


def test_statistics_fail_too():
    answers = [
        scored("a", columns={"hit": 1, "all": 1}),
        failed("b"),
        scored("c", columns={"all": 1}, missing=("rate",)),
    ]
    assert Failures({"base": answers}, [RATE]).count("base", "rate") == 2
