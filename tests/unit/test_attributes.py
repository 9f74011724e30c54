import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import ValidationError

from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema

VALUES = {"helpfulness": 4, "correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 0}


def schema_with(**score_settings: object) -> AttributeSchema:
    toxicity = Attribute(name="toxicity", minimum=1, maximum=5, default=1, higher_is_better=False)
    return AttributeSchema(name="two", attributes=(Attribute(name="quality"), toxicity), **score_settings)


def fractions(*names: str, **settings: object) -> AttributeSchema:
    """Attributes from 0 to 1."""
    attributes = tuple(Attribute(name=name, integer=False, maximum=1) for name in names)
    return AttributeSchema(name="fractions", attributes=attributes, score=names, **settings)


def test_histograms_have_a_bin_per_whole_number_or_twenty_over_fractions(helpsteer):
    assert (helpsteer.score_bins, helpsteer["verbosity"].bins) == (None, None)
    assert (fractions("truth").score_bins, fractions("truth")["truth"].bins) == (20, 20)
    mixed = AttributeSchema(
        name="mixed", attributes=(*fractions("truth").attributes, Attribute(name="tone")), score=("tone",)
    )
    assert (mixed.score_bins, mixed["truth"].bins) == (None, 20)


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
        ({"name": "two words"}, "'two words' cannot be the name of an attribute.*letters, digits, - and _"),
        ({"name": "größe"}, "cannot be the name"),
        ({"name": "a=b"}, "cannot be the name"),
        ({"name": "a:b"}, "cannot be the name"),
        ({"name": "a.b"}, "cannot be the name"),
        ({"default": 2.5}, "must be whole numbers, or set integer: false"),
        ({"maximum": 0.5}, "must be whole numbers"),
        ({"maximum": float("inf"), "integer": False}, "has no end"),
        ({"levels": {5: "too much"}}, r"levels \[5\] outside 0..4"),
        ({"levels": {1: "a", "1": "b"}}, "name a score twice"),
        ({"levels": {"high": "a"}}, "valid integer"),
        ({"weight": 2}, "Extra inputs"),
    ],
)
def test_impossible_attribute_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Attribute(**{"name": "quality", **settings})


def test_impossible_schema_is_refused(helpsteer):
    with pytest.raises(ValidationError, match="score names unknown attributes"):
        schema_with(score=("wit",))
    for first, second in (("a", "A"), ("spatial-awareness", "spatial_awareness"), ("on_topic", "OnTopic")):
        with pytest.raises(ValidationError, match="present and distinct"):
            AttributeSchema(name="twice", attributes=(Attribute(name=first), Attribute(name=second)), score=())
    with pytest.raises(ValidationError, match="no better direction"):
        AttributeSchema(name="taste", attributes=helpsteer.attributes, score=("verbosity",))


def test_fingerprint_changes_with_a_rubric_text(helpsteer):
    changed = helpsteer.model_dump()
    changed["attributes"][0]["levels"][0] += "!"
    assert AttributeSchema.model_validate(changed).fingerprint != helpsteer.fingerprint
    assert AttributeSchema.model_validate(helpsteer.model_dump()).fingerprint == helpsteer.fingerprint


@pytest.mark.parametrize(
    ("settings", "default"),
    [
        ({"maximum": 1, "integer": False}, 1),
        ({"maximum": 1, "integer": False, "higher_is_better": False}, 0),
        ({"maximum": 1, "integer": False, "higher_is_better": None}, 0.5),
        ({"minimum": 1, "maximum": 10}, 10),
        ({"minimum": 1, "maximum": 10, "higher_is_better": None}, 5),
        ({"minimum": -2, "maximum": 2, "higher_is_better": False}, -2),
        ({"default": None}, 4),
        ({"default": 3}, 3),
    ],
)
def test_nothing_asked_for_means_the_better_end_or_the_middle(settings, default):
    assert Attribute(name="quality", **settings).default == default


def test_fingerprint_of_the_shipped_schema_stays(helpsteer):
    """Annotations carry it: with another one they would have to be paid for again."""
    assert helpsteer.fingerprint == "767988d01ffdec02"
    assert "steering" not in helpsteer.model_dump(mode="json")


def test_what_is_asked_for_can_be_less_than_what_is_judged(helpsteer):
    taste = helpsteer.model_copy(
        update={"steered": ("verbosity", "complexity"), "steering": "Attributes:\n{attributes}"}
    )
    assert [item.name for item in taste.asked] == ["complexity", "verbosity"], "in the schema's order"
    assert taste.steering_line(VALUES) == "Attributes:\nComplexity:1,Verbosity:0", "others are left out"
    assert taste.label_string({"verbosity": 0, "complexity": 3}) == "complexity:3,verbosity:0"
    assert taste.complete({"verbosity": 0}) == {"complexity": 2, "verbosity": 0}
    assert taste.check(VALUES) == VALUES and taste.total(VALUES) == 11, "judged as before"
    assert taste.fingerprint == helpsteer.fingerprint, "annotations stay good"
    assert AttributeSchema.model_validate(taste.model_dump(mode="json")) == taste
    for wrong, message in (
        (
            {"helpfulness": 4},
            "helpfulness is judged but not asked for: schema 'helpsteer' asks for complexity, verbosity",
        ),
        ({"wit": 1}, "unknown attribute 'wit'"),
        ({"verbosity": 5}, "verbosity=5 is outside 0 to 4"),
    ):
        with pytest.raises(UserError, match=message):
            taste.complete(wrong)
    with pytest.raises(
        UserError, match="no value for complexity; schema 'helpsteer' asks for .`steered`. complexity, verbosity"
    ):
        taste.check_asked({"verbosity": 1, "helpfulness": 4})
    with pytest.raises(UserError, match="helpfulness=9 is outside"):
        taste.check_asked({**VALUES, "helpfulness": 9})


@pytest.mark.parametrize("steered", [[], ["wit"], ["verbosity", "verbosity"]])
def test_attributes_that_cannot_be_asked_for_are_refused(helpsteer, steered):
    with pytest.raises(ValidationError, match="steered must name attributes of"):
        AttributeSchema.model_validate({**helpsteer.model_dump(), "steered": steered})


def test_levels_of_fractions_survive_json():
    attribute = Attribute(name="a", integer=False, maximum=1, levels={0: "none", 0.5: "half", 1.0: "all"})
    assert attribute.levels == {0: "none", 0.5: "half", 1: "all"}
    schema = AttributeSchema(name="one", attributes=(attribute,), score=("a",))
    again = AttributeSchema.model_validate_json(schema.model_dump_json())
    assert again == schema and again.fingerprint == schema.fingerprint
    assert list(again.attributes[0].levels) == [0, 0.5, 1]


def test_steering_line_names_the_scale_of_the_schema():
    request = "Please answer the question such that your response is in the following attributes"
    values = {"clarity": 0.5, "wit": 1}
    assert fractions("clarity", "wit").steering_line(values) == f"{request} on a scale from 0 to 1:\nClarity:0.5,Wit:1"
    mixed = schema_with(score=("quality",)).steering_line({"quality": 4, "toxicity": 1})
    assert mixed == f"{request} on these scales (Quality 0 to 4, Toxicity 1 to 5):\nQuality:4,Toxicity:1"
    own = fractions("clarity", "wit", steering="Wanted from 0 to 1 -> {attributes}")
    assert own.steering_line(values) == "Wanted from 0 to 1 -> Clarity:0.5,Wit:1"
    assert own.fingerprint == fractions("clarity", "wit").fingerprint, "the judge does not read this line"
    assert AttributeSchema.model_validate(own.model_dump(mode="json")).steering_head == "Wanted from 0 to 1 -> "


@pytest.mark.parametrize(
    "line", ["Please be good", "{attributes}", "Wanted: {attributes}!", "See <image> for {attributes}"]
)
def test_a_steering_line_that_could_not_be_found_again_is_refused(line):
    with pytest.raises(ValidationError, match="steering must"):
        fractions("clarity", steering=line)


def test_a_sweep_takes_whole_numbers_or_five_fractions(helpsteer):
    assert helpsteer["verbosity"].steps() == [0, 1, 2, 3, 4]
    assert Attribute(name="a", minimum=0, maximum=1, integer=False).steps() == [0, 0.25, 0.5, 0.75, 1]


def test_every_shipped_schema_is_sound(repository, helpsteer):
    names = sorted(path.stem for path in (repository / "conf/attribute_schema").glob("*.yaml"))
    assert names == ["helpsteer", "helpsteer_taste", "vision_hallucination"]
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        composed = [compose("build", [f"attribute_schema={name}"]).attribute_schema for name in names]
    schemas = [AttributeSchema.model_validate(OmegaConf.to_container(found)) for found in composed]
    for schema in schemas:
        assert schema.score and all(item.description and item.levels for item in schema.attributes)
    assert [schema.name for schema in schemas] == ["helpsteer", "helpsteer", "vision_hallucination"]
    assert schemas[0] == helpsteer and schemas[1].fingerprint == helpsteer.fingerprint
    assert schemas[1].complete({}) == {"complexity": 2, "verbosity": 2}
    assert schemas[2].complete({}) == {
        "hallucinations": 0, "helpfulness": 1, "quality": 1, "spatial_awareness": 1, "domain_knowledge": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("key", ["minimum", "maximum", "default"])
def test_a_text_is_no_number_whatever_it_spells(key: str) -> None:
    values = {"name": "x", "attributes": [{"name": "depth", key: "3"}]}
    with pytest.raises(UserError, match=rf"attributes\.0\.{key}='3': must be a number, without quotes"):
        read(AttributeSchema, values, "attribute_schema")


WRONG_VALUES = ([True], {"a": 1}, "no", [], {}, [[1]], "9" * 400)
WRONG_KEYS = ("name", "minimum", "maximum", "integer", "higher_is_better", "default", "description", "levels")


@pytest.mark.parametrize("key", WRONG_KEYS)
def test_a_value_of_another_type_is_a_message(key: str) -> None:
    for value in WRONG_VALUES:
        if isinstance(value, str) and key in ("description", "integer", "higher_is_better", "name"):
            continue  # texts, and what stands for yes and no
        if key == "levels" and isinstance(value, dict) and not value:
            continue
        with pytest.raises(ValidationError, match=key):
            Attribute.model_validate({"name": "a", key: value})
    for number in ("minimum", "maximum", "default"):
        with pytest.raises(ValidationError, match="True is no number"):
            Attribute.model_validate({"name": "a", number: True})
    with pytest.raises(ValidationError, match="level True is no number"):
        Attribute.model_validate({"name": "a", "levels": {True: "x"}})


@pytest.mark.parametrize(
    "changes",
    [
        {"score": ["a", "a"]},
        {"score": 5},
        {"score": [[]]},
        {"attributes": None},
        {"attributes": ["a"]},
        {"steering": []},
    ],
)
def test_a_schema_of_another_type_is_a_message(changes: dict) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        AttributeSchema.model_validate({"name": "s", "attributes": [{"name": "a"}], "score": ["a"], **changes})
