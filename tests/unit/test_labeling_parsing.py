"""The reply parser: tolerant about packaging, strict about content."""

import json

import pytest

from nemo_mm_align.labeling.parsing import parse_reply
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema

SCHEMA = AttributeSchema(
    name="two",
    attributes=(Attribute(name="quality"), Attribute(name="risk", integer=False, maximum=1, default=0)),
    score=("quality",),
)


def reply(*ratings: dict, **extra: object) -> dict:
    return {"ratings": list(ratings), **extra}


def rating(number: object, quality: object = 3, risk: object = 0.5, **extra: object) -> dict:
    return {
        "candidate": number,
        "reasoning": f"because {number}",
        "scores": {"quality": quality, "risk": risk},
        **extra,
    }


GOOD = reply(rating(2, 1, 0.25), rating(1, 4, 1))
EXPECTED = ({"quality": 4, "risk": 1.0}, {"quality": 1, "risk": 0.25})


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        json.dumps(GOOD, indent=2),
        f"Here is {{my}} rating:\n```json\n{json.dumps(GOOD, indent=1)}\n```\nDone {{}}.",
        f"{json.dumps(GOOD)}\n{json.dumps(GOOD)}",
        json.dumps(GOOD).replace("ratings", "Ratings").replace("quality", "Quality").replace("candidate", "CANDIDATE"),
        json.dumps(reply(rating("Candidate 2", "1", "0.25"), rating("1", " 4 ", 1.0))),
        json.dumps(reply({"candidate": 1, "reasoning": "because 1", "quality": 4, "risk": 1}, rating(2, 1, 0.25))),
        json.dumps(reply(rating("B", 1, 0.25), {**rating(1, 4, 1), "candidate": "Answer A"})),
        f"Sure:\n{GOOD!r}",
        json.dumps(GOOD, indent=1)
        .replace('"quality": 4', '"quality": 4  // it\'s "fine" {really}\n')
        .replace("]", ",]"),
        json.dumps(reply(rating(1, 4, 1, extra="x"), {**rating(2, 1, 0.25), "mood": 9}, summary="fine")),
    ],
    ids=[
        "plain",
        "indented",
        "fenced",
        "said twice",
        "key case",
        "strings",
        "flat",
        "letters",
        "python",
        "comments",
        "extras",
    ],
)
def test_packaging_does_not_matter(text: str) -> None:
    parsed = parse_reply(text, SCHEMA, 2)
    assert parsed.ratings == EXPECTED
    assert parsed.reasoning[0] == "because 1"
    assert parsed.reference_answer is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot rate these.",
        json.dumps(GOOD)[:-2],
        json.dumps([1, 2]),
        json.dumps({"ratings": {"1": 3}}),
        json.dumps(reply(rating(1))),
        json.dumps(reply(rating(1), rating(1))),
        json.dumps(reply(rating(1), rating(2), rating(3))),
        json.dumps(reply({**rating(1), "candidate": None}, rating(2))),
        json.dumps(reply(rating(1, quality=None), rating(2))),
        json.dumps(reply(rating(1, quality=True), rating(2))),
        json.dumps(reply(rating(1, quality="3 out of 4"), rating(2))),
        json.dumps(reply(rating(1, quality=float("nan")), rating(2))),
        json.dumps(reply({"candidate": 1, "scores": {"quality": 3}}, rating(2))),
        json.dumps(GOOD) + json.dumps(reply(rating(1, 0), rating(2, 0))),
        repr(GOOD).replace("'risk': 1}", "'risk': 1, 'risk': 0}"),
        json.dumps(GOOD).replace('"quality": 4', '"quality": 4, "Quality": 2'),
        json.dumps(reply(rating(1), rating(2))).replace("3", "9" * 5000),
    ],
)
def test_nothing_is_made_up(text: str) -> None:
    with pytest.raises(CallFailure) as caught:
        parse_reply(text, SCHEMA, 2)
    assert caught.value.kind == "unparsable"
    assert caught.value.raw == text


@pytest.mark.parametrize(
    "changes", [{"quality": 5}, {"quality": -1}, {"quality": 2.5}, {"risk": 1.01}, {"quality": 1e9}]
)
def test_a_number_out_of_range_is_a_failure_of_its_own(changes: dict) -> None:
    with pytest.raises(CallFailure) as caught:
        parse_reply(json.dumps(reply(rating(1, **changes), rating(2))), SCHEMA, 2)
    assert caught.value.kind == "out_of_range"


def test_a_wanted_reference_answer_must_be_there() -> None:
    text = json.dumps(reply(rating(1), my_answer=" It is blue. \ud800"))
    assert parse_reply(text, SCHEMA, 1, want_reference=True).reference_answer == "It is blue. ?"
    for missing in (reply(rating(1)), reply(rating(1), my_answer="  ")):
        with pytest.raises(CallFailure, match="my_answer"):
            parse_reply(json.dumps(missing), SCHEMA, 1, want_reference=True)
