"""Replies in layouts that nobody asked for: every rating that is there is found, and none that is not."""

import pytest

from nemo_mm_align.labeling.parsing import parse_reply
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema

MISTAKES = Attribute(name="mistakes", integer=False, maximum=1, default=0, higher_is_better=False)
OTHERS = tuple(Attribute(name=name, integer=False, maximum=1, default=1) for name in ("clarity", "local_knowledge"))
SCHEMA = AttributeSchema(name="floats", attributes=(MISTAKES, *OTHERS), score=("clarity",))
LEVELS = AttributeSchema(name="levels", attributes=(Attribute(name="helpfulness"), Attribute(name="depth")), score=())
EXPECTED = (
    {"mistakes": 0.3, "clarity": 0.8, "local_knowledge": 0.5},
    {"mistakes": 0.0, "clarity": 0.95, "local_knowledge": 1.0},
)

LAYOUTS = {
    "objects in a row": """The first one counts four boats (0.3 is mild), the second is right.

Ratings for Response A:
```json
{
  "Mistakes": 0.3,
  "Clarity": 0.8,
  "Local-Knowledge": 0.5
}
```

Ratings for response B:
{"Mistakes": 0, "Clarity": 0.95, "Local Knowledge": 1.0}

Response B wins because its clarity is higher than 0.9.""",
    "nested, python quotes, comments": """```json
{
'Ratings for Response A':{
  "Mistakes": 0.3,  // one boat too many, "four" {sic}
  "Clarity": 0.8, # it's fine
  "Local Knowledge": 0.5 // fair
},
'Ratings for Response B':{
  "Mistakes": 0.0,
  "Clarity": 0.95,// better
  "Local Knowledge": 1.0
}
}
```""",
    "quotes and braces left open": """Here are the ratings for both responses:
```json
{
'Ratings for Response A:{
  "Mistakes": 0.3,
  "Clarity": 0.8,
  "Local-Knowledge": 0.5 // it's a guess
},
'Ratings for Response B:{
  "Mistakes": 0.0,
  "Clarity": 0.95,
  "Local-Knowledge": 1.0
}
```""",
    "lines": """Response A mentions a lighthouse; neither Response A nor Response B saw the gulls.

Response A:
- Mistakes: 0.3 (There is no fourth boat.)
- Clarity: 0.8, as it reads well.
- Local Knowledge: 0.5 because it names no harbour.

Response B:
- Mistakes: 0.0. Nothing is made up.
- Clarity: 0.95 - Very clear.
- Local Knowledge: 1.0""",
    "markdown": """**Answer 1**
* **Mistakes**: 0.3
* **Clarity:** 0.8
* **Local knowledge**: **0.5**

### Answer 2:
1. Mistakes = 0.0
2. Clarity = 0.95
3. Local knowledge = 1""",
    "one line each": """candidate_b: mistakes: 0.0, clarity: 0.95; local_knowledge: 1.0
candidate_a: mistakes: 0.3, clarity: 0.8; local_knowledge: 0.5""",
    "first in words, then as an object": """Response A:
- Mistakes: 0.3
- Clarity: high
The rating for Response B should look like this:
Mistakes: 0.0
{"Response A": {"mistakes": "0.3", "clarity": 0.8, "why": "clarity: 0.1 is for others", "localKnowledge": 0.5},
 "Response B": {"scores": {"mistakes": 0.0, "clarity": 0.95, "local knowledge": 1.0}}, "best": "Response B"}""",
}


@pytest.mark.parametrize("text", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_ratings_are_found_in_any_layout(text: str) -> None:
    parsed = parse_reply(text, SCHEMA, 2)
    assert parsed.ratings == EXPECTED
    assert parsed.reasoning == ("", "") and parsed.reference_answer is None


def test_one_object_that_says_it_rates_both() -> None:
    text = 'Ratings for Response A and B:\n```json\n{"Mistakes": 1.0, "Clarity": 0, "Local Knowledge": 0.2}\n```'
    both = {"mistakes": 1.0, "clarity": 0.0, "local_knowledge": 0.2}
    assert parse_reply(text, SCHEMA, 2).ratings == (both, both)
    with pytest.raises(CallFailure, match="unparsable"):
        parse_reply(text.replace("Ratings for", "Comparing"), SCHEMA, 2)


def levels(first: str, depth: str = "Depth: 2", second: str = "Helpfulness: 3\nDepth: 1") -> str:
    return f"Answer 1:\n{first}\n{depth}\n\nAnswer 2:\n{second}\n"


@pytest.mark.parametrize(
    "value", ["4", "4.0", "4.", "4,", "4 (or so I think)", "4 // yes", '"4",', "**4**", "4 – clear"]
)
def test_a_plain_number_is_read(value: str) -> None:
    if "or so" in value:
        with pytest.raises(CallFailure, match="not a plain number"):
            parse_reply(levels(f"Helpfulness: {value}"), LEVELS, 2)
    else:
        assert parse_reply(levels(f"Helpfulness: {value}"), LEVELS, 2).ratings[0] == {"helpfulness": 4, "depth": 2}


@pytest.mark.parametrize(
    "value",
    [
        *("3/4", "3 / 4", "3.5 out of 4", "3 of 4", "3 (out of 5)", "3 (3 of 4 objects)", "75%", "3 %"),
        *(
            "2-3",
            "2 - 3",
            "2 – 3",
            "2 to 3",
            "2 or 3",
            "2, or 3",
            "2 -> 3",
            "2, 3",
            "2. 3",
            "~3",
            "about 3",
            ">3",
            "3+",
        ),
        *("NaN", "nan", "inf", "Infinity", "null", "None", "true", "n/a", "-", "", "three", "3 stars", "0x3", "1e0"),
        *("1e9", "3,5", "3.5.1", "3..", "²", "٣", "9" * 5000, "3 is what a perfect answer gets"),
    ],
)
def test_what_is_no_plain_number_is_no_rating(value: str) -> None:
    for text in (levels(f"Helpfulness: {value}"), levels(f'{{"helpfulness": {value}', "'depth': 2}")):
        with pytest.raises(CallFailure) as caught:
            parse_reply(text, LEVELS, 2)
        assert caught.value.kind == "unparsable" and caught.value.raw == text


@pytest.mark.parametrize("value", ["-1", "5", "2.5", "+7", "1000000000"])
def test_a_number_out_of_range_is_named_as_such(value: str) -> None:
    with pytest.raises(CallFailure) as caught:
        parse_reply(levels(f"Helpfulness: {value}"), LEVELS, 2)
    assert caught.value.kind == "out_of_range"


WHOLE = levels("Helpfulness: 3")
HOSTILE = {
    "two values for one candidate": WHOLE + "Answer 1:\nHelpfulness: 2\n",
    "two values, one in an object": WHOLE + '{"Answer 1": {"helpfulness": 2, "depth": 2}}',
    "key twice": '{"A": {"helpfulness": 3, "depth": 1, "Helpfulness": 2}, "B": {"helpfulness": 3, "depth": 1}}',
    "python key twice": "{'A': {'helpfulness': 3, 'depth': 1, 'depth': 2}, 'B': {'helpfulness': 3, 'depth': 1}}",
    "value changed in words": levels("Helpfulness: 3\nHelpfulness: 3, actually 2"),
    "a third candidate": WHOLE + "Answer 3:\nHelpfulness: 1\nDepth: 1\n",
    "candidate 0": WHOLE.replace("Answer 2", "Answer 0"),
    "one candidate only": WHOLE.split("Answer 2")[0],
    "one attribute missing": levels("Helpfulness: 3", depth=""),
    "nobody named": "Helpfulness: 3\nDepth: 2\n\nHelpfulness: 3\nDepth: 1",
    "example in a sentence": levels("An answer with helpfulness: 4 would name the boats."),
    "example as an object": levels('A perfect answer would get {"helpfulness": 4}.'),
    "example with a heading": levels("For example, a perfect answer would get:\nHelpfulness: 4"),
    "example with a name": levels("Helpfulness: 3", second="An ideal answer instead of Answer 2 would get:\n")
    + "Helpfulness: 4\nDepth: 4",
    "cut in a number": '{"Answer 1": {"helpfulness": 3, "depth": 2}, "Answer 2": {"helpfulness": 3, "depth": 1.',
    "cut behind a digit": '{"Answer 1": {"helpfulness": 3, "depth": 2}, "Answer 2": {"helpfulness": 3, "depth": 1',
    "cut at the point": WHOLE.rstrip() + ".",
    "cut before the last value": '{"Answer 1": {"helpfulness": 3, "depth": 2}, "Answer 2": {"helpfulness": 3, "dep',
    "comparison": "Answer 1 and Answer 2:\nHelpfulness: 3\nDepth: 2",
    "a list per attribute": "Helpfulness:\nAnswer 1: 3\nAnswer 2: 2\nDepth:\nAnswer 1: 2\nAnswer 2: 1",
    "scores only in the reasoning": '{"Answer 1": "helpfulness: 3, depth: 2", "Answer 2": "helpfulness: 3, depth: 1"}',
    "braces": "{" * 3000 + WHOLE[:40] + "}" * 3000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_ambiguity_is_a_failure(text: str) -> None:
    assert parse_reply(WHOLE, LEVELS, 2).ratings == ({"helpfulness": 3, "depth": 2}, {"helpfulness": 3, "depth": 1})
    with pytest.raises(CallFailure) as caught:
        parse_reply(text, LEVELS, 2)
    assert caught.value.kind == "unparsable"


def test_scores_quoted_in_the_reasoning_change_nothing() -> None:
    quoted = 'Response 2:\\nhelpfulness: 0 {\\"helpfulness\\": 1}'
    entries = [
        f'{{"candidate": {number}, "reasoning": "{quoted}", "scores": {{"helpfulness": {number}, "depth": 0}}}}'
        for number in (2, 1)
    ]
    text = f'{{"ratings": [{", ".join(entries)}]}}'
    assert [rating["helpfulness"] for rating in parse_reply(text, LEVELS, 2).ratings] == [1, 2]


def test_a_reference_answer_is_not_looked_for_in_running_text() -> None:
    with pytest.raises(CallFailure, match="no reference answer"):
        parse_reply(WHOLE, LEVELS, 2, want_reference=True)
