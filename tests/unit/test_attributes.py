import pytest
from pydantic import ValidationError

from nemo_mm_align.attributes import Attribute, AttributeSchema
from nemo_mm_align.errors import UserError

VALUES = {"helpfulness": 4, "correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 0}


def schema_with(**score_settings: object) -> AttributeSchema:
    toxicity = Attribute(name="toxicity", minimum=1, maximum=5, default=1, higher_is_better=False)
    return AttributeSchema(name="two", attributes=(Attribute(name="quality"), toxicity), **score_settings)


def test_steering_line_is_the_papers(helpsteer):
    assert helpsteer.steering_line(VALUES) == (
        "Please answer the question such that your response is in the following attributes in 5-point Likert scale:\n"
        "Helpfulness:4,Correctness:3,Coherence:4,Complexity:1,Verbosity:0"
    )


def test_order_is_the_schemas_not_the_callers(helpsteer):
    assert list(helpsteer.check(dict(reversed(VALUES.items())))) == list(helpsteer.names)


def test_total_and_perfect_total(helpsteer):
    assert helpsteer.total(VALUES) == 11
    assert helpsteer.perfect_total == 12


def test_lower_is_better_counts_from_its_other_end():
    schema = schema_with(score=("quality", "toxicity"))
    assert schema.total({"quality": 3, "toxicity": 1}) == 3 + 5
    assert schema.total({"quality": 4, "toxicity": 1}) == schema.perfect_total == 9


def test_complete_fills_in_defaults(helpsteer):
    assert helpsteer.complete({"verbosity": 0}) == {
        "helpfulness": 4,
        "correctness": 4,
        "coherence": 4,
        "complexity": 2,
        "verbosity": 0,
    }


def test_fractions_where_the_attribute_allows_them():
    attribute = Attribute(name="quality", integer=False)
    assert attribute.check(2.5) == 2.5
    schema = AttributeSchema(name="one", attributes=(attribute,), score=("quality",))
    assert schema.steering_string({"quality": 2.5}) == "Quality:2.5"


@pytest.mark.parametrize("value", [-1, 5, 2.5, "4", None, True, float("nan"), float("inf")])
def test_value_outside_the_attribute_is_refused(helpsteer, value):
    with pytest.raises(UserError, match="verbosity=.*0 to 4"):
        helpsteer.check({**VALUES, "verbosity": value})


def test_unknown_and_missing_names_are_refused(helpsteer):
    with pytest.raises(UserError, match="unknown attribute 'wit'.*helpfulness, correctness"):
        helpsteer.check({**VALUES, "wit": 4})
    with pytest.raises(UserError, match="unknown attribute 'wit'"):
        helpsteer.complete({"wit": 4})
    with pytest.raises(UserError, match="no value for coherence, verbosity"):
        helpsteer.check({name: 4 for name in ("helpfulness", "correctness", "complexity")})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minimum": 4, "maximum": 4}, "not below maximum"),
        ({"default": 5}, "default 5.0 outside"),
        ({"name": "two words"}, "should match pattern"),
        ({"weight": 2}, "Extra inputs"),
    ],
)
def test_impossible_attribute_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Attribute(**{"name": "quality", **settings})


def test_impossible_schema_is_refused(helpsteer):
    with pytest.raises(ValidationError, match="score names unknown attributes"):
        schema_with(score=("wit",))
    with pytest.raises(ValidationError, match="present and distinct"):
        AttributeSchema(name="twice", attributes=(Attribute(name="a"), Attribute(name="A")), score=())
    with pytest.raises(ValidationError, match="no better direction"):
        AttributeSchema(name="taste", attributes=helpsteer.attributes, score=("verbosity",))


def test_fingerprint_changes_with_a_rubric_text(helpsteer):
    changed = helpsteer.model_dump()
    changed["attributes"][0]["levels"][0] += "!"
    assert AttributeSchema.model_validate(changed).fingerprint != helpsteer.fingerprint
    assert AttributeSchema.model_validate(helpsteer.model_dump()).fingerprint == helpsteer.fingerprint
