"""The miniature's judge: what the written rules give, and that answers made to please it do not."""

import random
from typing import Any

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judge import JudgeRequest, check_reply
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.miniature.answers import can_be_written, write_answer
from nemo_mm_align.miniature.judged import judge_answer
from nemo_mm_align.miniature.oracle import ATTRIBUTES, OracleJudge, rate, reference_answer
from nemo_mm_align.miniature.sources.charts import chart_question, draw_scene
from nemo_mm_align.miniature.sources.easyvqa import shape_question
from nemo_mm_align.miniature.sources.text import text_question
from nemo_mm_align.miniature.truth import Bar, Question, Scene, Truth, make_truth
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt, Turn

CIRCLE = Scene(source="easyvqa", colour="red", shape="circle")
CHART = Scene(source="chart", bars=tuple(Bar(colour=c, value=v) for c, v in (("red", 2), ("blue", 5), ("teal", 3))))


def truth(scene: Scene, kind: Any, **asked: str) -> Truth:
    return make_truth(scene, Question(kind=kind, **asked), "train")


def quality(text: str, about: Truth) -> tuple[int, int, int]:
    rated = rate(text, about)
    return rated["helpfulness"], rated["correctness"], rated["coherence"]


COLOUR, ABSENT = truth(CIRCLE, "colour", shape="circle"), truth(CIRCLE, "exist", colour="blue")
TRIANGLE, VALUE = truth(CIRCLE, "colour", shape="triangle"), truth(CHART, "value", colour="blue")
TALLER, COMPARE = (
    truth(CHART, "taller", colour="red", other="blue"),
    truth(CHART, "compare", colour="red", other="blue"),
)


@pytest.mark.parametrize(
    ("text", "about", "expected"),
    [
        ("red", COLOUR, (4, 4, 4)),
        ("its hue is red.", COLOUR, (4, 4, 4)),
        ("in this image, the color of the circle is red. there is no green shape.", COLOUR, (4, 4, 4)),
        ("the image contains a red circle.", COLOUR, (4, 4, 4)),
        ("blue", COLOUR, (1, 0, 4)),
        ("it is blue. the shape is a circle.", COLOUR, (1, 1, 4)),
        ("it is red. there is a teal triangle.", COLOUR, (3, 2, 4)),
        ("it is red. the shape is a triangle.", COLOUR, (3, 3, 4)),
        ("there is no triangle.", TRIANGLE, (4, 4, 4)),
        ("there is no triangle. the shape is red.", TRIANGLE, (4, 4, 4)),
        ("the triangle is red.", TRIANGLE, (1, 0, 4)),
        ("there is no red triangle.", TRIANGLE, (2, 2, 4)),
        ("no, there is no blue shape.", ABSENT, (4, 4, 4)),
        ("yes, there is a blue shape.", ABSENT, (1, 0, 4)),
        ("5", VALUE, (4, 4, 4)),
        ("the ordinate of the blue bar is 5. the red bar is 3.", VALUE, (3, 3, 4)),
        ("the blue bar exceeds the red bar.", TALLER, (4, 4, 4)),
        ("no, the blue bar is taller than the red bar.", COMPARE, (4, 4, 4)),
        ("so the answer is yes.", COMPARE, (1, 0, 4)),
        ("the tallest bar is blue.", VALUE, (2, 2, 4)),
    ],
)
def test_rates_by_the_written_rules(text: str, about: Truth, expected: tuple[int, int, int]) -> None:
    assert quality(text, about) == expected


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("", COLOUR),
        (". . .", COLOUR),
        ("red blue green yellow teal gray brown black", COLOUR),
        ("red. blue. green. yellow. teal. gray. brown. black.", COLOUR),
        ("yes. no.", ABSENT),
        ("no, there is a blue shape.", ABSENT),
        ("yes no", ABSENT),
        ("1. 2. 3. 4. 5. 6.", VALUE),
        ("it is red. it is blue.", COLOUR),
        ("the circle is", COLOUR),
        ("circle the red is color of the.", COLOUR),
        ("the answer is right and complete.", COLOUR),
    ],
)
def test_answers_made_to_please_score_below_an_honest_wrong_one_plus_two(text: str, about: Truth) -> None:
    assert sum(quality(text, about)) < 7


def test_repetition_and_missing_end_cost_coherence() -> None:
    assert rate("it is red. it is red. it is red.", COLOUR)["coherence"] == 3
    assert rate("in this image, the circle is red", COLOUR)["coherence"] == 3
    assert rate("it is red. " * 20, COLOUR)["coherence"] == 3
    assert rate("it is red. the the circle.", COLOUR)["coherence"] == 2


def test_verbosity_counts_words_and_complexity_reads_vocabulary() -> None:
    for words, level in ((2, 0), (3, 1), (7, 1), (8, 2), (13, 2), (14, 3), (22, 3), (23, 4)):
        assert rate(" ".join(["red"] * words), COLOUR)["verbosity"] == level
    texts = ("it is red.", "its color is red.", "its shade is red.", "its hue is red.", "its chromaticity is red.")
    assert [rate(text, COLOUR)["complexity"] for text in texts] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("", 0),
        ("red hue", 3),
        ("its chromaticity is red. it is red.", 4),  # one of two sentences is half of them
        ("its chromaticity is red. it is red. there is a red circle.", 0),  # one of three is not
        ("its chromaticity is red. its shade is red. there is a red circle.", 2),
        ("its chromaticity is red. its hue is red. it is red. there is a red circle. yes.", 0),
        ("yes. its chromaticity of ordinate is red. its hue is red. it is red.", 3),  # two rare words in one sentence
    ],
)
def test_complexity_is_the_tier_that_half_of_the_sentences_reach(text: str, level: int) -> None:
    assert rate(text, COLOUR)["complexity"] == level


def draw(rng: random.Random) -> Truth:
    if rng.random() < 0.5:
        return chart_question(rng, draw_scene(rng), "base", 0.5)[1]
    return shape_question(rng, CIRCLE, "base", 0.5)[1]


def test_grammar_and_judge_agree() -> None:
    """2,000 right answers of all styles are perfect and of the verbosity meant; wrong and garbled ones are not."""
    rng, styled = random.Random(1), 0
    for _ in range(500):
        about, verbosity, complexity = draw(rng), rng.randint(0, 4), rng.randint(0, 4)
        assert sum(quality(reference_answer(about), about)) == 12
        right = write_answer(rng, about, verbosity, complexity)
        assert sum(quality(right, about)) == 12, (right, about)
        styled += rate(right, about)["verbosity"] == verbosity
        assert sum(quality(write_answer(rng, about, verbosity, complexity, "wrong"), about)) <= 6
        assert rate(write_answer(rng, about, verbosity, complexity, "invented"), about)["correctness"] <= 2
    assert styled > 480


def test_an_answer_has_the_style_that_was_asked_for_wherever_there_is_one() -> None:
    rng, styled = random.Random(2), 0
    for _ in range(1500):
        about, style = draw(rng), (rng.randint(0, 4), rng.randint(0, 4))
        rated = rate(write_answer(rng, about, *style), about)
        assert ((rated["verbosity"], rated["complexity"]) == style) == can_be_written(about, *style), (about, style)
        if style[0] > 2:
            rated = rate(write_answer(rng, about, *style, rng.choice(("wrong", "invented"))), about)
            assert (rated["verbosity"], rated["complexity"]) == style
            styled += 1
    assert styled > 500


def test_text_instructions_are_checked_word_by_word() -> None:
    about = Truth(
        scene=Scene(source="text"), question=Question(kind="text", task="reverse"), expected="dog cat 3", split="train"
    )
    assert quality("dog cat 3", about) == (4, 4, 4)
    assert quality("dog cat 3 red", about) == (2, 2, 4)
    assert quality("dog cat cat cat", about) == (1, 1, 2)
    assert quality("red", about) == (0, 0, 4)
    assert quality("", about) == (0, 0, 0)


def prompt(about: Truth) -> Prompt:
    is_text = about.question.kind == "text"
    turn = Turn(role="user", content="say" if is_text else "<image>\nask")
    metadata = {"truth": about.model_dump(exclude_defaults=True)}
    return Prompt(id="1", images=() if is_text else ("a.png",), turns=(turn,), metadata=metadata)


def test_judge_rates_candidates_in_order(helpsteer: AttributeSchema) -> None:
    judge = OracleJudge(helpsteer)
    request = JudgeRequest(prompt(COLOUR), ("blue", "its hue is red."), (), helpsteer, want_reference=True)
    reply = check_reply(judge.judge(request), request)
    assert [ratings["correctness"] for ratings in reply.ratings] == [0, 4]
    assert reply.ratings[1]["complexity"] == 3
    assert reply.reference_answer == "the shade of the circle is red."


def test_judge_refuses_what_it_cannot_know(helpsteer: AttributeSchema) -> None:
    judge = OracleJudge(helpsteer)
    stranger = Prompt(id="x", turns=(Turn(role="user", content="hello"),))
    with pytest.raises(CallFailure, match=r"bad_request.*'x' has no valid truth"):
        judge.judge(JudgeRequest(stranger, ("a",), (), helpsteer))
    other = helpsteer.attributes[0].model_copy(update={"name": "humour"})
    with pytest.raises(UserError, match="cannot rate 'humour'"):
        OracleJudge(AttributeSchema(name="h", attributes=(other,), score=("humour",)))


def test_judged_answers_carry_what_the_tables_count() -> None:
    judged = judge_answer(prompt(ABSENT), "yes, there is a blue shape.", num_tokens=9)
    assert (judged.absent, judged.claims_presence, judged.yes_no_correct) == (True, True, False)
    assert (judged.source, judged.question_type, judged.num_words) == ("easyvqa", "exist", 6)
    assert set(judged.ratings) == set(ATTRIBUTES)
    assert judge_answer(prompt(TRIANGLE), "there is no triangle.").claims_presence is False
    assert judge_answer(prompt(TRIANGLE), "the triangle is red.").claims_presence is True
    text = text_question(random.Random(0), "dev")[1]
    assert judge_answer(prompt(text), text.expected).text_ok is True
    assert judge_answer(prompt(text), "red").ratings == {}
