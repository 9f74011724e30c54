"""What a request asks for: its own words over the alias, the server's defaults and the schema's; sweeps; refusals."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.serving.chat_request import read_chat
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.level_words import level_words, sayable, value_of
from nemo_mm_align.serving.served_model import ServedModel, model_cards
from tests.unit.serving.toy_model import body, schema, served


@pytest.fixture(scope="module")
def taste() -> ServedModel:
    """Asked for complexity and verbosity, whose defaults are 2 and 2."""
    aliases = {"toy-short": {"verbosity": "succinct"}, "toy-plain": None}
    return served(
        attributes=schema().model_copy(update={"steered": ("complexity", "verbosity")}),
        default_attributes={"complexity": 3},
        aliases=aliases,
    )


def pair(model: ServedModel, /, **more: Any) -> Any:
    """Complexity and verbosity that a request asks for, one pair for each assignment."""
    found = [
        None if one is None else (one["complexity"], one["verbosity"])
        for one in read_chat(body(**more), model).attributes
    ]
    return found[0] if len(found) == 1 else found


def refusal(model: ServedModel, /, **more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read_chat(body(**more), model)
    return caught.value


def test_the_nearest_word_counts(taste: ServedModel) -> None:
    assert pair(taste) == (3, 2), "the server's default over the schema's"
    assert pair(taste, attributes={}) == (3, 2)
    assert pair(taste, model="toy-short") == (3, 0)
    assert pair(taste, model="toy@verbosity=1, complexity=expert") == (4, 1)
    assert (
        pair(taste, model="toy@verbosity=1;complexity=+4")
        == pair(taste, model="toy@verbosity=1+complexity=4")
        == (4, 1)
    )
    assert pair(taste, model="toy-short", attributes={"complexity": 0}) == (0, 0)
    assert pair(taste, model="toy-short", attributes={"verbosity": 4}) == (3, 4)
    assert pair(taste, model="toy-plain") is pair(taste, model="toy@none") is pair(taste, attributes=None) is None
    assert pair(taste, model="toy-short", chat_template_kwargs={"attributes": None}) is None
    assert pair(taste, model="toy-plain", attributes={"verbosity": 1}) == (3, 1)
    assert pair(taste, attributes={"verbosity": 1}, chat_template_kwargs={"attributes": {"verbosity": 1.0}}) == (3, 1)
    assert [read_chat(body(model=name), taste).model for name in ("", None, "toy-short")] == ["toy", "toy", "toy-short"]


def test_a_model_can_wait_to_be_asked() -> None:
    model = served(attributes=schema(), asks_by_default=False)
    assert read_chat(body(), model).attributes == (None,)
    assert pair(model, attributes={"verbosity": 0}) == (2, 0)
    assert model_cards(model)[0]["asked_by_default"] is False


def test_a_sweep_is_one_request_for_each_assignment(taste: ServedModel) -> None:
    assert pair(taste, sweep=["verbosity"]) == [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4)]
    assert pair(taste, sweep={"verbosity": [0, "verbose"], "complexity": [1, 2]}) == [(1, 0), (2, 0), (1, 4), (2, 4)]
    assert pair(taste, sweep={"verbosity": [2, "average", 2]}, attributes={"complexity": 0}) == (0, 2)
    assert pair(taste, sweep={"verbosity": [1]}, model="toy-plain") == (3, 1)
    assert len(read_chat(body(sweep="all"), taste).requests) == 9, "they meet at (3, 2)"
    asked = read_chat(body(sweep=["verbosity"], n=3, seed=5, temperature=1), taste)
    assert [request.sampling.num_samples for request in asked.requests] == [3] * 5
    assert (asked.num_choices, list(asked.choices(4, 2))) == (15, [14])
    assert len({tuple(request.prompt.ids) for request in asked.requests}) == 5
    for sweep, message in {
        ("verbosty",): "unknown attribute 'verbosty'. Did you mean verbosity",
        ("helpfulness",): "complexity 0 to 4; verbosity 0 to 4",
    }.items():
        assert message in refusal(taste, sweep=list(sweep)).message
    odd: list[tuple[Any, str]] = [
        ([], "give names"), ({}, "give names"), (3, "give names"), ({"verbosity": []}, "a list of at least one value"),
        ({"verbosity": 3}, "not a number"), ({"verbosity": list(range(9)) * 9}, "81 assignments; at most 64"),
        ({"verbosity": [7]}, "outside 0 to 4"), ([["verbosity"]], "give names"),
    ]  # fmt: skip
    for sweep, message in odd:
        assert message in refusal(taste, sweep=sweep).message
    assert "attributes is null" in refusal(taste, sweep=["verbosity"], attributes=None).message
    assert "n=13 and 5 assignments" in refusal(taste, sweep=["verbosity"], n=13, temperature=0).message


CAN = "This model can be asked for complexity 0 to 4; verbosity 0 to 4."


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"attributes": {"verbosty": 0}}, f"attributes: unknown attribute 'verbosty'. Did you mean verbosity? {CAN}"),
        ({"attributes": {"helpfulness": 4}}, CAN),
        ({"attributes": {"Verbosity": 0}}, "Did you mean verbosity"),
        (
            {"attributes": {"verbosity": 9}},
            "verbosity=9 is outside 0 to 4. verbosity takes whole numbers from 0 to 4, or words",
        ),
        ({"attributes": {"verbosity": 2.5}}, "verbosity=2.5 is not a whole number"),
        ({"attributes": {"verbosity": float("nan")}}, "is outside 0 to 4"),
        ({"attributes": {"verbosity": 10**400}}, "beyond any float is outside"),
        ({"attributes": {"verbosity": True}}, "verbosity is true or false. verbosity takes"),
        ({"attributes": {"verbosity": None}}, "verbosity is null"),
        ({"attributes": {"verbosity": "2"}}, "'2' says no level, or several."),
        (
            {"attributes": {"verbosity": "short"}},
            "'succinct' (0), 'fairly short' (1), 'average length' (2), 'moderately long' (3)",
        ),
        ({"attributes": [1]}, 'attributes is a list; give an object as {"complexity": 2}, or null'),
        ({"attributes": {}, "chat_template_kwargs": {"attributes": {"verbosity": 1}}}, "differ; give one of them"),
        ({"attributes": None, "chat_template_kwargs": {"attributes": {}}}, "differ; give one of them"),
        (
            {"chat_template_kwargs": {"attribute": {}}},
            "no such variable, so it would change nothing. Did you mean attributes?",
        ),
        ({"chat_template_kwargs": "verbosity"}, "chat_template_kwargs is a text; give an object"),
        ({"attribute": {"verbosity": 0}}, "attribute: there is no such field. Did you mean attributes?"),
        ({"model": "toy@verbosity"}, "'verbosity' behind @ is not ATTRIBUTE=VALUE"),
        ({"model": "toy@verbosity=0,verbosity=1"}, "or stands there twice"),
        ({"model": "toy@verbosity=0;verbosity=1"}, "or stands there twice"),
        ({"model": "toy@verbosity=0;;complexity=1"}, "'' behind @"),
        ({"model": "toy@"}, "'' behind @"),
        ({"model": "toy@verbosity=nan"}, "outside 0 to 4"),
        ({"model": "toy@depth=1"}, CAN),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_can(taste: ServedModel, more: dict[str, Any], message: str) -> None:
    error = refusal(taste, **more)
    assert message in error.message and (error.status, error.type) == (400, "invalid_request_error")
    assert error.param in (*more, "chat_template_kwargs.attributes")


def test_an_unknown_model_is_not_found(taste: ServedModel) -> None:
    for name in ("gpt-4o", "toy2@verbosity=0", "TOY"):
        error = refusal(taste, model=name)
        assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
        assert "there is toy, toy-short, toy-plain, and toy@ATTRIBUTE=VALUE" in error.message
    for name in ("\ud800", "t" * 1001):
        assert (refusal(taste, model=name).status, refusal(taste, model=name).param) == (400, "model")


def test_a_model_without_attributes_says_so() -> None:
    model = served()
    for more in ({"attributes": {"verbosity": 1}}, {"sweep": ["verbosity"]}, {"model": "toy@verbosity=1"}):
        assert "this model was trained without attributes" in refusal(model, **more).message
    assert model_cards(model)[0]["attributes"] == [] and model_cards(model)[0]["default_attributes"] is None


def test_cards_tell_what_can_be_asked(taste: ServedModel) -> None:
    base, short, plain = model_cards(taste)
    assert [card["id"] for card in (base, short, plain)] == ["toy", "toy-short", "toy-plain"]
    assert {card["root"] for card in (base, short, plain)} == {"toy"}
    assert base["default_attributes"] == {"complexity": 3, "verbosity": 2} and base["asked_by_default"]
    assert short["default_attributes"] == {"complexity": 3, "verbosity": 0}
    assert not plain["asked_by_default"] and base["max_model_len"] == 3000
    _, verbosity = base["attributes"]
    assert (verbosity["name"], verbosity["label"], verbosity["higher_is_better"]) == ("verbosity", "Verbosity", None)
    assert verbosity["levels"]["4"] == "verbose, long-winded" and verbosity["words"]["verbose"] == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"name": "a@b"}, "give a name without @"),
        ({"aliases": {"toy": None}}, "that no alias has as well"),
        ({"aliases": {"short": {"verbosty": 0}}}, "aliases.short: unknown attribute"),
        ({"default_attributes": {"verbosity": 9}}, "outside 0 to 4"),
    ],
)
def test_a_server_of_impossible_names_or_defaults_does_not_start(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        served(attributes=schema(), **more)


def test_words_are_those_that_one_level_alone_begins_with() -> None:
    own = Attribute(
        name="depth", levels={0: "Plain words; for all", 1: "plain and long", 2: "deep, very", 3: "", 4: "an expert's"}
    )
    assert level_words(own) == {"plain words": 0, "plain and long": 1, "deep": 2, "an expert's": 4, "an": 4}
    assert sayable(own) == {0: "plain words", 1: "plain and long", 2: "deep", 4: "an expert's"}
    assert value_of(own, " DEEP ") == 2 and value_of(own, "plain  words") == 0
    with pytest.raises(
        UserError, match=r"'plain' says no level, or several. depth takes whole numbers from 0 to 4, or words: "
    ):
        value_of(own, "plain")
    half = Attribute(name="grounded", maximum=1, integer=False, levels={0.5: "partly so"})
    assert (value_of(half, "partly"), value_of(half, 0.25)) == (0.5, 0.25)
    with pytest.raises(UserError, match=r"takes numbers from 0 to 1\.$"):
        value_of(Attribute(name="a", maximum=1, integer=False), "b")
