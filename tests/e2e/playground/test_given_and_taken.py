"""What goes in and out: pictures, keys, links, code; what the server refuses, in words."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.browser import Browser
from tests.e2e.playground.server import Served
from tests.e2e.playground.using import add_files, asks, ended, moves, noise, open_page, texts

pytestmark = pytest.mark.e2e


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
        (
            (503, "The server is draining."),
            "The server is stopping or starting. Try again in a moment. (Request req-7 in its log.)",
        ),
        ((400, "attributes.verbosity=9 is outside 0 to 4."), "Change the setting that is named and ask again."),
        ((413, "The body has more than 1 MB."), "Send fewer or smaller pictures, or a shorter text."),
    ],
)
def test_what_the_server_refuses_is_said_with_what_to_do(page: Browser, server: Served, refusal, advice) -> None:
    server.refusal = refusal
    asks(page, "Hello")
    page.wait("document.querySelector('.problem button') !== null")
    said = texts(page, ".problem p")
    assert said[0] == refusal[1] and said[1] == advice
    page.wait(f"document.querySelector('#status').textContent.includes({json.dumps(refusal[1])})")
    server.refusal = None
    page.click(".problem button")
    ended(page)
    assert texts(page, ".problem p") == [] and len(texts(page, ".exchange")) == 1


def test_what_came_before_an_answer_broke_off_is_kept(page: Browser, server: Served) -> None:
    server.cut = {"message": "the server ends before this was answered", "code": "draining"}
    asks(page, "Hello")
    page.wait("document.querySelector('.problem button') !== null")
    assert texts(page, ".answer .said") == ["The "] and texts(page, ".problem strong") == [server.cut["message"]]
    assert texts(page, ".problem p")[1] == "The server is stopping or starting. Try again in a moment."


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


def test_pictures_by_button_drop_and_paste(page: Browser, server: Served, tmp_path: Path) -> None:
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    small.write_bytes(noise(8, 6))
    large.write_bytes(noise(400, 200))
    (tmp_path / "note.png").write_text("no picture")
    add_files(page, small, tmp_path / "note.png")
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
    add_files(page, tmp_path / "picture1.png")
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
