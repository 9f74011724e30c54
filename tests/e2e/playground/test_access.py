"""Who uses the page otherwise: by keys, by ear, on a narrow screen, in the dark."""

from typing import Any

import pytest

from tests.browser import Browser
from tests.e2e.playground.server import Served
from tests.e2e.playground.using import asks, ended, open_page

pytestmark = pytest.mark.e2e


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
  const shown = [...document.querySelectorAll('body *')].filter(e =>
     e.checkVisibility({opacityProperty: true, visibilityProperty: true})
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
    page.evaluate("document.querySelector('#question').value = 'begun'; document.activeElement.blur()")
    page.press("Tab", 9)
    assert page.evaluate("document.activeElement.id") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    page.press("Enter", 13, text="\r")
    page.wait("document.activeElement.id === 'question'")
    assert page.evaluate("document.activeElement.value + location.hash") == "begun"
    reached = set()
    for _ in range(40):
        page.press("Tab", 9)
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        box = "const e = document.activeElement, l = e.closest('.file, .segments label') ?? e;"
        sees = "[l, l.querySelector?.('span') ?? l].some(x => getComputedStyle(x).outlineStyle === 'solid')"
        assert page.evaluate(f"(() => {{ {box} return e === document.body || {sees}; }})()"), reached
    assert {"send", "file", "verbosity-A", "unasked-A", "model-A", "seed", "share", "code", "skip"} <= reached


def test_the_focus_goes_with_the_button_that_stops(page: Browser, server: Served) -> None:
    server.pause_s = 0.3
    page.evaluate("document.querySelector('#question').value = 'Hello'; document.querySelector('#send').focus()")
    page.press("Enter", 13, text="\r")
    page.wait("document.activeElement.id === 'stop'")
    page.press("Enter", 13, text="\r")
    page.wait("document.activeElement.id === 'question'")
    page.wait("document.querySelector('#status').textContent === 'Answer stopped'")
