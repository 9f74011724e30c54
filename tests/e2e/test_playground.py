"""The playground in a real browser, against a server that speaks the API: asked, steered, compared, swept, shared."""

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nemo_mm_align.schema.attributes import AttributeSchema
from tests.browser import Browser, open_browser
from tests.playground_server import Served, answer, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

WATCH = "addEventListener('securitypolicyviolation', e => (window.broken ??= []).push(e.violatedDirective));"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser") / "profile") as opened:
        opened.call("Page.enable")
        opened.screen(1280, 800)
        opened.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        opened.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        yield opened


@pytest.fixture(scope="module")
def server(helpsteer: AttributeSchema) -> Iterator[Served]:
    with serving(Served(helpsteer)) as served:
        yield served


@pytest.fixture
def page(chromium: Browser, server: Served) -> Iterator[Browser]:
    """The page as it opens for the first time; nothing may have broken its policy in the end."""
    server.key, server.refusal, server.pause_s = None, None, 0.0
    open_page(chromium, server.url)
    server.bodies.clear()
    yield chromium
    assert chromium.evaluate("window.broken") is None


def open_page(browser: Browser, url: str, fragment: str = "") -> None:
    browser.call("Page.navigate", url="about:blank")
    browser.wait("location.href === 'about:blank'")
    browser.call("Page.navigate", url=f"{url}/{fragment}")
    browser.wait("document.querySelector('#served')?.textContent !== '' && document.readyState === 'complete'")


def asks(page: Browser, text: str) -> None:
    """Type a question and press Enter."""
    page.evaluate("document.querySelector('#question').focus()")
    page.write(text)
    page.press("Enter", 13, text="\r")


def ended(page: Browser, answers: int = 1) -> None:
    page.wait(f"document.querySelectorAll('.answer[aria-busy=false] .scores').length === {answers}")
    page.wait("document.querySelector('#stop').hidden")


def texts(page: Browser, selector: str) -> list[str]:
    return page.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map(one => one.textContent)")


def moves(page: Browser, slider: str, presses: int) -> None:
    """Move a slider by the arrow keys; a negative number is to the left."""
    page.evaluate(f"document.querySelector('#{slider}').focus()")
    for _ in range(abs(presses)):
        page.press(*(("ArrowRight", 39) if presses > 0 else ("ArrowLeft", 37)))


def last_said(page: Browser) -> str:
    return page.evaluate("document.querySelector('#status').textContent")


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
    evil = ["<img", "src=x", "onerror=alert(1)>", "<b>bold</b>"]
    monkeypatch.setattr("tests.playground_server.WORDS", evil)
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
    widths = page.evaluate("[...document.querySelectorAll('.last .filled')].map(one => one.getBoundingClientRect().width)")
    track = page.evaluate("document.querySelector('.last .track').getBoundingClientRect().width")
    assert np.allclose([width / track for width in widths], [0.75] * 4 + [0.5] + [0.75] * 4 + [0], atol=0.01)


def test_a_sweep_is_one_request_with_plots_and_a_table(page: Browser, server: Served) -> None:
    page.click("input[value=sweep]")
    page.evaluate("document.querySelector('#swept-name').focus()")
    page.write("Verb")
    for _ in range(4):
        page.press("ArrowDown", 40)
    asks(page, "What is shown?")
    ended(page, 5)
    (body,) = server.bodies
    assert body["sweep"] == {"verbosity": [0, 1, 2, 3, 4]} and "verbosity" not in body["attributes"]
    assert [len(text.split()) for text in texts(page, ".answer .said")] == [3, 5, 7, 9, 11]
    assert texts(page, "figcaption") == ["Answer length in tokens", "Verbosity as scoreddashed: as asked", "Total score"]
    rows = page.evaluate("[...document.querySelectorAll('#sweep tbody tr')].map(r => [...r.cells].map(c => c.textContent))")
    assert [row[:2] + row[-2:] for row in rows] == [
        [str(value), str(3 + 2 * value), str(value), "9"] for value in range(5)
    ]
    xs = page.evaluate("[...document.querySelectorAll('.plot')[1].querySelectorAll('circle')].map(c => +c.getAttribute('cx'))")
    ys = page.evaluate("[...document.querySelectorAll('.plot')[1].querySelectorAll('circle')].map(c => +c.getAttribute('cy'))")
    assert np.allclose(np.diff(xs), np.diff(xs)[0]) and np.allclose(np.diff(ys), np.diff(ys)[0]) and ys[0] > ys[-1]
    told = page.evaluate("document.querySelectorAll('.plot')[1].querySelector('desc').textContent")
    assert told == "Verbosity as scored against Verbosity asked for: 0 at 0, 1 at 1, 2 at 2, 3 at 3, 4 at 4."


def test_a_key_is_asked_for_and_kept_for_the_tab_alone(chromium: Browser, server: Served) -> None:
    server.key, server.refusal = "sesame-1234", None
    chromium.call("Page.navigate", url=f"{server.url}/")
    chromium.wait("document.querySelector('#key-dialog')?.open && document.activeElement.id === 'key'")
    chromium.write("wrong")
    chromium.press("Enter", 13, text="\r")
    chromium.wait("document.querySelector('#key-dialog').open && !document.querySelector('#key-refused').hidden")
    chromium.write("sesame-1234")
    chromium.press("Enter", 13, text="\r")
    chromium.wait("document.querySelector('#served').textContent === 'square-7b'")
    asks(chromium, "Hello")
    ended(chromium)
    chromium.click("#share")
    chromium.wait("location.hash.includes('q=Hello')")
    everywhere = "location.href + document.documentElement.outerHTML + JSON.stringify(localStorage) + document.cookie"
    assert "sesame" not in chromium.evaluate(everywhere)
    assert chromium.evaluate("Object.values(sessionStorage).join()") == "sesame-1234"
    chromium.click("#code")
    assert 'os.environ["API_KEY"]' in texts(chromium, "#snippet")[0]
    chromium.evaluate("sessionStorage.clear()")


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        ((503, "The server is draining."), "Try again in a moment."),
        ((400, "attributes.verbosity=9 is outside 0 to 4."), "Change the setting that is named and ask again."),
        ((413, "The body has more than 1 MB."), "Send fewer or smaller pictures, or a shorter text."),
    ],
)
def test_what_the_server_refuses_is_said_with_what_to_do(page: Browser, server: Served, refusal, advice) -> None:
    server.refusal = refusal
    asks(page, "Hello")
    page.wait("document.querySelector('.problem button') !== null")
    said = texts(page, ".problem p")
    assert said[0] == refusal[1] and said[1].endswith(advice)
    page.wait(f"document.querySelector('#status').textContent.includes({json.dumps(refusal[1])})")
    server.refusal = None
    page.click(".problem button")
    ended(page)
    assert texts(page, ".problem p") == [] and len(texts(page, ".exchange")) == 1


def test_a_server_that_is_gone_is_said_and_found_again(page: Browser) -> None:
    page.call("Network.enable")
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.call("Network.emulateNetworkConditions", offline=True, **offline)
    asks(page, "Hello")
    page.wait("document.querySelector('.problem button') !== null")
    assert texts(page, ".problem strong") == ["This device is offline."]
    page.wait("document.querySelector('#banner').textContent.startsWith('This device is offline.')")
    page.call("Network.emulateNetworkConditions", offline=False, **offline)
    page.wait("document.querySelector('#banner').hidden")
    page.click(".problem button")
    ended(page)


def noise(width: int, height: int) -> bytes:
    """A PNG that does not compress."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def test_pictures_by_button_drop_and_paste(page: Browser, server: Served, tmp_path: Path) -> None:
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    small.write_bytes(noise(8, 6))
    large.write_bytes(noise(400, 200))
    (tmp_path / "note.png").write_text("no picture")
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(small), str(tmp_path / "note.png")])
    page.wait("document.querySelector('#toast').textContent.startsWith('note.png: the browser cannot read')")
    dragged = {"items": [], "files": [str(large)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver"):
        page.call("Input.dispatchDragEvent", type=kind, x=600, y=300, data=dragged)
    page.wait("!document.querySelector('#drop').hidden")
    page.call("Input.dispatchDragEvent", type="drop", x=600, y=300, data=dragged)
    page.wait("document.querySelectorAll('#pictures img').length === 2 && document.querySelector('#drop').hidden")
    page.evaluate(
        "(async () => { const c = document.createElement('canvas'); c.width = 3; c.height = 2;"
        "const b = await new Promise(done => c.toBlob(done)); const data = new DataTransfer();"
        "data.items.add(new File([b], 'pasted.png', {type: 'image/png'}));"
        "dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true})); })()"
    )
    page.wait("document.querySelectorAll('#pictures img').length === 3")
    alts = page.evaluate("[...document.querySelectorAll('#pictures img')].map(one => one.alt)")
    assert alts[0] == "Picture 1: small.png, 8 by 6 pixels" and alts[2] == "Picture 3: pasted.png, 3 by 2 pixels"
    page.evaluate("document.querySelector('#pictures li:nth-child(3) button').focus()")
    page.press("Enter", 13, text="\r")
    page.wait("document.querySelectorAll('#pictures img').length === 2")
    assert page.evaluate("document.activeElement.ariaLabel") == "Remove picture 2, large.png"
    asks(page, "What are they?")
    ended(page)
    *sent, text = server.bodies[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "What are they?"} and len(sent) == 2
    first, second = (read(part["image_url"]["url"]) for part in sent)
    assert first == noise(8, 6), "a small picture is sent as it is"
    assert len(second) <= server.max_image_bytes < len(noise(400, 200))
    width, height = Image.open(io.BytesIO(second)).size
    assert width < 400 and abs(width / height - 2) < 0.1
    page.click("#share")
    page.wait("document.querySelector('#toast').textContent.includes('Pictures are not in it.')")
    assert "data:" not in page.evaluate("decodeURIComponent(location.href)")


def read(url: str) -> bytes:
    return base64.b64decode(url.split(",", 1)[1])


def test_a_link_brings_settings_and_question_and_sends_nothing(page: Browser, server: Served) -> None:
    page.click("input[value=compare]")
    moves(page, "verbosity-A", 1)
    page.click("#unasked-B")
    page.evaluate("document.querySelector('#temperature').focus()")
    page.write("0.5")
    page.evaluate("document.querySelector('#question').focus()")
    page.write("Wo liegt „Ulm“ & warum?")
    page.click("#share")
    page.wait("location.hash.length > 1")
    fragment = page.evaluate("location.hash")
    assert page.evaluate("navigator.clipboard.readText()") == f"{server.url}/{fragment}"
    open_page(page, server.url, fragment)
    page.wait("document.querySelector('#question').value !== ''")
    state = "['#question', '#temperature', '#verbosity-A'].map(s => document.querySelector(s).value).join('|')"
    assert page.evaluate(state) == "Wo liegt „Ulm“ & warum?|0.5|3"
    assert page.evaluate("document.querySelector('#unasked-B').checked") and server.bodies == []
    assert page.evaluate("document.querySelector('input[name=view]:checked').value") == "compare"
    open_page(page, server.url, "#ask=verbosity:99,nothing:1,complexity:x&view=<b>&temperature=hot&model=none")
    assert page.evaluate(state) == "||4" and page.evaluate("document.querySelector('#complexity-A').value") == "2"


@pytest.mark.parametrize("language", ["python", "curl"])
def test_the_code_of_a_request_makes_that_request(page: Browser, server: Served, tmp_path: Path, language: str) -> None:
    (tmp_path / "picture1.png").write_bytes(noise(8, 6))
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(tmp_path / "picture1.png")])
    page.wait("document.querySelectorAll('#pictures img').length === 1")
    page.evaluate("document.querySelector('#max_tokens').focus()")
    page.write("20")
    page.evaluate("document.querySelector('#question').focus()")
    page.write("""It's "$HOME" and \\n `x`, ü?""")
    page.click("#code")
    page.click(f"input[value={language}]")
    page.click("#code-copy")
    page.wait("document.querySelector('#toast').textContent === 'Code copied'")
    code = page.evaluate("navigator.clipboard.readText()")
    page.click("#code-close")
    asks(page, "")
    ended(page)
    program = tmp_path / "program"
    program.write_text(code)
    command = [sys.executable if language == "python" else "bash", str(program)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "no_proxy": "*"})
    assert done.returncode == 0 and "The small square" in done.stdout, done.stderr
    by_page, by_code = server.bodies
    for each in ("stream", "stream_options"):
        by_page.pop(each)
    assert by_code == by_page and by_code["max_tokens"] == 20


def controls(page: Browser) -> list[tuple[str, str]]:
    """Role and name of everything that can be used, as assistive technology gets it."""
    page.call("Accessibility.enable")
    nodes: list[dict[str, Any]] = page.call("Accessibility.getFullAXTree")["nodes"]
    usable = {"button", "slider", "textbox", "spinbutton", "combobox", "radio", "switch", "image", "link", "table"}
    found = [(each["role"]["value"], each["name"].get("value", "")) for each in nodes if not each["ignored"]]
    return [(role, name) for role, name in found if role in usable]


CONTRAST = """(() => {
  const channels = colour => { const c = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    c.fillStyle = colour; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = one => { for (let e = one; e; e = e.parentElement) { const c = channels(getComputedStyle(e).backgroundColor);
    if (c[3] === 255) return c; } return channels(getComputedStyle(document.documentElement).colorScheme ? 'Canvas' : '#fff'); };
  const shown = [...document.querySelectorAll('body *')].filter(e => e.checkVisibility({opacityProperty: true, visibilityProperty: true})
    && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && !e.closest('.unseen, .unasked, option'));
  return shown.map(e => { const style = getComputedStyle(e), colour = e instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(channels(colour)), light(ground(e))];
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.className.toString() || e.tagName, e.textContent.slice(0, 30)]; })
    .filter(([ratio]) => ratio < 4.5);
})()"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 360])
def test_every_view_fits_is_named_and_can_be_read(page: Browser, server: Served, width: int, dark: bool) -> None:
    page.screen(width, 800, dark)
    open_page(page, server.url)
    answers = 0
    for view, new in (("chat", 1), ("compare", 2), ("sweep", 5)):
        page.click(f"input[value={view}]")
        page.evaluate("document.querySelector('#settings').open = true")
        asks(page, "A-question-without-any-place-to-break-it-" * 3)
        answers += new
        ended(page, answers)
        reached, seen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert reached <= seen, view
        assert all(name for _, name in controls(page)), [each for each in controls(page) if not each[1]]
        assert page.evaluate(CONTRAST) == [], view
    page.screen(1280, 800)


def test_keys_reach_the_question_first_and_the_focus_is_seen(page: Browser) -> None:
    page.evaluate("document.activeElement.blur()")
    page.press("Tab", 9)
    assert page.evaluate("document.activeElement.id") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    page.press("Enter", 13, text="\r")
    page.wait("document.activeElement.id === 'question'")
    reached = set()
    for _ in range(40):
        page.press("Tab", 9)
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        box = "const e = document.activeElement, l = e.closest('.file, .segments label') ?? e;"
        sees = "[l, l.querySelector?.('span') ?? l].some(x => getComputedStyle(x).outlineStyle === 'solid')"
        assert page.evaluate(f"(() => {{ {box} return e === document.body || {sees}; }})()"), reached
    assert {"send", "file", "verbosity-A", "unasked-A", "model-A", "seed", "share", "code", "skip"} <= reached


def test_an_attribute_model_rates_what_the_user_writes(chromium: Browser, helpsteer: AttributeSchema) -> None:
    with serving(Served(helpsteer, kind="attribute_model")) as served:
        open_page(chromium, served.url)
        asks_for = chromium.evaluate("[...document.querySelectorAll('#views, #share, .setting')].every(e => !e.checkVisibility())")
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
