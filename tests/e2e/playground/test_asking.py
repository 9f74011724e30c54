"""Asked in a real browser: a conversation, steered, stopped, edited, compared, swept; an attribute model; what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from nemo_mm_align.schema.attributes import AttributeSchema
from tests.browser import Browser
from tests.e2e.playground.server import Served, answer, serving
from tests.e2e.playground.using import asks, ended, moves, open_page, texts
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e


def test_a_conversation_steered_by_keys(page: Browser, server: Served) -> None:
    moves(page, "verbosity-A", -1)
    assert page.evaluate("document.querySelector('#verbosity-A').ariaValueText") == "1 of 4: fairly short"
    asks(page, "What is shown?")
    ended(page)
    asked = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 1}
    assert server.bodies[0]["attributes"] == asked
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "What is shown?"}]
    assert texts(page, ".answer .said") == [answer(asked)]
    assert "Verbosity 1" in texts(page, ".answer .asked b")
    page.wait(f"document.querySelector('#status').textContent === {json.dumps('Answer: ' + answer(asked))}")
    assert texts(page, ".answer .bars .value")[-1] == "1 of 4"
    assert page.evaluate("document.querySelector('.answer').closest('[aria-live], [role=log], [role=status]')") is None
    moves(page, "verbosity-A", 3)
    asks(page, "And what else?")
    ended(page, 2)
    roles = [(each["role"], each["content"]) for each in server.bodies[1]["messages"]]
    assert roles == [("user", "What is shown?"), ("assistant", answer(asked)), ("user", "And what else?")]
    page.click("#unasked-A")
    asks(page, "Once more, as you like")
    ended(page, 3)
    assert server.bodies[2]["attributes"] is None
    long = texts(page, ".answer .said")[1]
    assert len(long.split()) == 11 and page.evaluate("document.querySelector('.said b')") is None


def test_markup_of_a_model_stays_text(page: Browser, server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "<img src=x onerror=alert(1)> <b>bold</b>"
    monkeypatch.setattr("tests.e2e.playground.server.WORDS", evil)
    asks(page, "<script>window.ran = 1</script>")
    ended(page)
    assert texts(page, ".answer .said")[0].startswith("<img src=x onerror=alert(1)> <b>bold</b>")
    assert page.evaluate("document.querySelectorAll('.said *').length") == 0
    assert texts(page, ".asked-question .said") == ["<script>window.ran = 1</script>"]


def test_an_alias_brings_its_own_defaults_and_empty_fields_are_not_sent(page: Browser, server: Served) -> None:
    page.evaluate("document.querySelector('#model-A').focus()")
    page.press("ArrowDown", 40)
    page.evaluate("document.querySelector('#seed').focus()")
    page.write("7")
    asks(page, "Short?")
    ended(page)
    (body,) = server.bodies
    assert body["model"] == "square-7b@verbosity=0" and body["attributes"]["verbosity"] == 0
    assert body["seed"] == 7 and "temperature" not in body and "max_tokens" not in body


def test_stop_regenerate_and_edit(page: Browser, server: Served) -> None:
    server.pause_s, before = 0.3, server.hung_up
    moves(page, "verbosity-A", 2)
    asks(page, "A long one")
    page.wait("document.querySelector('.answer .said').textContent !== ''")
    page.press("Escape", 27)
    page.wait("document.querySelector('.answer .facts').textContent.includes('stopped')")
    wait_until(lambda: server.hung_up == before + 1)
    assert 0 < len(texts(page, ".answer .said")[0].split()) < 11
    server.pause_s = 0
    page.click(".answer button.again")
    ended(page)
    assert len(texts(page, ".answer .said")[0].split()) == 11 and len(server.bodies) == 2
    page.click(".edit")
    assert page.evaluate("document.activeElement.id + ': ' + document.activeElement.value") == "question: A long one"
    page.write(" and more")
    page.press("Enter", 13, text="\r")
    wait_until(lambda: len(server.bodies) == 3)
    ended(page)
    assert [each["content"] for each in server.bodies[2]["messages"]] == ["A long one and more"]
    assert texts(page, ".asked-question .said") == ["A long one and more"]


def test_side_by_side_each_goes_on_from_its_own_answer(page: Browser, server: Served) -> None:
    page.click("input[value=compare]")
    moves(page, "verbosity-B", -2)
    asks(page, "What is shown?")
    ended(page, 2)
    both = sorted(server.bodies, key=lambda body: body["attributes"]["verbosity"])
    assert [body["attributes"]["verbosity"] for body in both] == [0, 2]
    assert [len(text.split()) for text in texts(page, ".answer .said")] == [7, 3]
    asks(page, "Go on")
    ended(page, 4)
    told = {body["attributes"]["verbosity"]: body["messages"][1]["content"] for body in server.bodies[2:]}
    assert [len(told[value].split()) for value in (2, 0)] == [7, 3]
    widths = page.evaluate(
        "[...document.querySelectorAll('.last .filled')].map(one => one.getBoundingClientRect().width)"
    )
    track = page.evaluate("document.querySelector('.last .track').getBoundingClientRect().width")
    assert np.allclose([width / track for width in widths], [0.75] * 4 + [0.5] + [0.75] * 4 + [0], atol=0.01)


def test_a_sweep_is_one_request_with_plots_and_a_table(page: Browser, server: Served) -> None:
    page.click("input[value=sweep]")
    assert page.evaluate("document.querySelector('#swept-name').value") == "verbosity", (
        "a matter of taste is offered first"
    )
    asks(page, "What is shown?")
    ended(page, 5)
    (body,) = server.bodies
    assert body["sweep"] == {"verbosity": [0, 1, 2, 3, 4]} and "verbosity" not in body["attributes"]
    assert [len(text.split()) for text in texts(page, ".answer .said")] == [3, 5, 7, 9, 11]
    assert texts(page, "figcaption") == [
        "Answer length in tokens",
        "Verbosity as scored",
        "Total score",
    ]
    rows = page.evaluate(
        "[...document.querySelectorAll('#sweep tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert [row[:2] + row[-2:] for row in rows] == [
        [str(value), str(3 + 2 * value), str(value), "9"] for value in range(5)
    ]
    xs = page.evaluate(
        "[...document.querySelectorAll('.plot')[1].querySelectorAll('circle')].map(c => +c.getAttribute('cx'))"
    )
    ys = page.evaluate(
        "[...document.querySelectorAll('.plot')[1].querySelectorAll('circle')].map(c => +c.getAttribute('cy'))"
    )
    assert np.allclose(np.diff(xs), np.diff(xs)[0]) and np.allclose(np.diff(ys), np.diff(ys)[0]) and ys[0] > ys[-1]
    told = page.evaluate("document.querySelectorAll('.plot')[1].querySelector('desc').textContent")
    assert told == "Verbosity as scored against Verbosity asked for: 0 at 0, 1 at 1, 2 at 2, 3 at 3, 4 at 4."


def test_an_attribute_model_rates_what_the_user_writes(chromium: Browser, helpsteer: AttributeSchema) -> None:
    with serving(Served(helpsteer, kind="attribute_model")) as served:
        open_page(chromium, served.url)
        asks_for = chromium.evaluate(
            "[...document.querySelectorAll('#views, #share, .setting')].every(e => !e.checkVisibility())"
        )
        assert asks_for and texts(chromium, "#send") == ["Rate"]
        chromium.evaluate("document.querySelector('#question').focus()")
        chromium.write("What is shown?")
        chromium.evaluate("document.querySelector('#rated').focus()")
        chromium.write("A red square, I think, and more")
        chromium.press("Enter", 13, modifiers=2)
        chromium.wait("document.querySelector('#ratings .scores') !== null")
        assert [each["role"] for each in served.bodies[0]["messages"]] == ["user", "assistant"]
        names, values = texts(chromium, "#ratings .name"), texts(chromium, "#ratings .value")
        assert dict(zip(names, values, strict=True))["Verbosity"] == "2 of 4"
        assert texts(chromium, "#ratings .total") == ["Total 9"]


def test_fractions_are_steered_and_swept(chromium: Browser, repository: Path) -> None:
    schema = yaml.safe_load((repository / "conf/attribute_schema/vision_hallucination.yaml").read_text())
    with serving(Served(AttributeSchema.model_validate(schema), scores=False)) as served:
        open_page(chromium, served.url)
        moves(chromium, "hallucinations-A", 3)
        output = "document.querySelector('output[for=hallucinations-A]').textContent"
        assert chromium.evaluate(output) == "0.15"
        assert texts(chromium, "#hallucinations-A-level")[0].startswith("near 0.25: ")
        chromium.click("input[value=sweep]")
        asks(chromium, "What is shown?")
        chromium.wait("document.querySelectorAll('#sweep tbody tr').length === 5")
        assert served.bodies[0]["sweep"] == {"domain_knowledge": [0, 0.25, 0.5, 0.75, 1]}
        assert texts(chromium, "figcaption") == ["Answer length in tokens"] and texts(chromium, ".scores") == []


def test_a_model_without_attributes_is_asked_as_it_is(
    chromium: Browser, helpsteer: AttributeSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"id": "plain", "object": "model", "kind": "chat", "attributes": [], "default_attributes": None}
    monkeypatch.setattr(Served, "models", lambda _: [model])
    monkeypatch.setattr(Served, "assignments", lambda *_: [None])
    with serving(Served(helpsteer, scores=False)) as served:
        open_page(chromium, served.url)
        shown = texts(chromium, "#views label:not([hidden])")
        assert shown == ["Chat"] and texts(chromium, ".setting.A .rows") == [
            "This model was not trained with attributes: it answers as it is."
        ]
        asks(chromium, "Hello")
        chromium.wait("document.querySelector('.answer .facts')?.textContent.includes('11 words')")
        assert "attributes" not in served.bodies[0]
