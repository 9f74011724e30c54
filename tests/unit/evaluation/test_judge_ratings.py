"""Numbers in a judge's words, against FastChat's rule written anew, and the traps that other kits fell into."""

from __future__ import annotations

import ast
import random
import re

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.tasks.judge_texts import fields_of, fill
from nemo_mm_align.evaluation.tasks.ratings import bracketed, first_word, json_score, pair_of_line
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.question import Answer

PIECES = (
    "[[",
    "]]",
    "[",
    "]",
    "7",
    "10",
    "8.5",
    ".",
    "0",
    "11",
    " ",
    "\n",
    "/10",
    "x",
    "[[9]]",
    "[[2]]",
    "[[12]]",
    "[4]",
)


def fastchat(text: str) -> float | None:
    """FastChat's rating of a reply (its -1 being None), except that it crashes at numbers like 08."""
    match = re.search(r"\[\[(\d+\.?\d*)\]\]", text) or re.search(r"\[(\d+\.?\d*)\]", text)
    return float(ast.literal_eval(match.groups()[0])) if match else None


def read(rule, text: str) -> float | None:
    try:
        return rule(Answer(text=text))["rating"]
    except CallFailure as failure:
        assert failure.kind == "unparsable" and failure.raw == text
        return None


def test_brackets_are_read_as_fastchat_reads_them() -> None:
    draw, seen = random.Random(0), {"read": 0, "none": 0, "range": 0}
    rule = bracketed(1, 10)
    for _ in range(20_000):
        text = "".join(draw.choice(PIECES) for _ in range(draw.randint(1, 14)))
        try:
            expected = fastchat(text)
        except SyntaxError:
            continue
        kind = "none" if expected is None else "read" if 1 <= expected <= 10 else "range"
        assert read(rule, text) == (expected if kind == "read" else None), text
        seen[kind] += 1
    assert min(seen.values()) > 500


@pytest.mark.parametrize(
    ("text", "first", "last", "only"),
    [
        ("Good.\n\nRating: [[7]]", 7, 7, 7),
        ("Rating: [[7]]/10", 7, 7, 7),
        ("[[7.5]]", 7.5, 7.5, 7.5),
        ("Rating: [8]", 8, 8, 8),
        ("See [3] and [4]. Rating: [[6]]", 6, 6, 6),
        ('It ends with "[[10]]", which is no argument. Rating: [[2]]', 10, 2, None),
        ("Turn 1: [[4]]. Turn 2: [[9]]", 4, 9, None),
        ("[[5]], I repeat: [[5.0]]", 5, 5, 5),
        ("Rating: 7", None, None, None),
        ("Rating: [[7/10]]", None, None, None),
        ("Rating: [[rating]]", None, None, None),
        ("I'm sorry, but I can't rate this.", None, None, None),
        ("", None, None, None),
        ("[[0]]", None, None, None),
        ("[[11]]", None, None, None),
        ("[[-3]]", None, None, None),
        ("[[nan]]", None, None, None),
        ("[[08]]", 8, 8, 8),
    ],
)
def test_traps(text: str, first: float | None, last: float | None, only: float | None) -> None:
    assert [read(bracketed(1, 10, which), text) for which in ("first", "last", "only")] == [first, last, only]


def test_several_ratings_are_counted() -> None:
    assert bracketed(1, 10)(Answer(text="[[10]], no: [[2]], [[2]]")) == {"rating": 10, "different": 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5),
        (" 1.0\n", 1),
        ("0.5 | ", 0.5),
        ("0", 0),
        ("1.1", None),
        ("-0.1", None),
        ("nan", None),
        ("Correctness: 0.5", None),
        ("", None),
    ],
)
def test_a_reply_that_begins_with_its_number(text: str, value: float | None) -> None:
    assert read(first_word(0, 1), text) == value


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("8 7\nBoth are fine.", (8, 7)),
        ("8,7.5\n", (8, 7.5)),
        ("8, 7 ", (8, 7)),
        ("Assistant 1: 8\nAssistant 2: 7", None),
        ("8 7 6", None),
        ("\n8 7", None),
        ("0 7", None),
        ("8 inf", None),
        ("-1 -1", None),
    ],
)
def test_two_numbers_in_the_first_line(text: str, pair: tuple[float, float] | None) -> None:
    rule = pair_of_line(1, 10, ("theirs", "ours"))
    if pair is None:
        with pytest.raises(CallFailure, match="unparsable"):
            rule(Answer(text=text))
    else:
        assert rule(Answer(text=text)) == {"theirs": pair[0], "ours": pair[1]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"explanation": "so", "score": 4}', 4),
        ('```json\n{"score": 2.5}\n```', 2.5),
        ('{"score": "4"}', None),
        ('{"score": true}', None),
        ('{"score": NaN}', None),
        ('{"score": 6}', None),
        ("[4]", None),
        ("score: 4", None),
    ],
)
def test_json_replies(text: str, value: float | None) -> None:
    assert read(json_score(1, 5), text) == value


def test_braces_in_what_is_placed_stay_text() -> None:
    template = 'Q: {question} A: {answer} {"score": {"n": 1}}'
    values = {"question": "{answer}?", "answer": "{question} {0} {} }}"}
    assert fill(template, values) == 'Q: {answer}? A: {question} {0} {} }} {"score": {"n": 1}}'
    assert fill("{{{answer}}} {{x}}", values, doubled=True) == "{{question} {0} {} }}} {x}"
    assert fields_of(template, ("question", "answer"), "t") == {"question", "answer"}
    with pytest.raises(UserError, match=r"t: \{anwser\} stands for nothing here. Did you mean answer\?"):
        fields_of("{anwser}", ("question", "answer"), "t")
