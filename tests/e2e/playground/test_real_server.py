"""The page before `scripts/serve.py` itself, with its key: a picture asked about, side by side, and a sweep in one request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser
from tests.decoding_model import make_folder
from tests.e2e.playground.using import add_files, asks, moves, noise, texts
from tests.serving_process import KEY, ServingProcess, serving

pytestmark = pytest.mark.e2e

ANSWERED = (
    "document.querySelectorAll('.answer[aria-busy=false]').length === {} && document.querySelector('#stop').hidden"
)
SETTINGS = ("template=vicuna_v1", "template.system=", "attribute_schema=helpsteer", "ask_defaults=true", "name=tiny")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    place = tmp_path_factory.mktemp("real")
    more = ("slots=4", "kept=4", "length=400", "temperature=0", "max_new_tokens=8", "aliases={plain: null}")
    with serving(place, f"checkpoint={make_folder(place / 'model')}", *SETTINGS, *more) as found:
        yield found


def test_the_page_and_the_server_fit(chromium: Browser, server: ServingProcess, tmp_path: Path) -> None:
    chromium.call("Page.navigate", url=f"{server.address}/")
    chromium.wait("document.querySelector('#key-dialog')?.open")
    chromium.write(KEY)
    chromium.press("Enter", 13, text="\r")
    chromium.wait("document.querySelector('#served').textContent === 'tiny'")
    picture = tmp_path / "noise.png"
    picture.write_bytes(noise(40, 30))
    add_files(chromium, picture)
    asks(chromium, "w1 w2 w3")
    chromium.wait(ANSWERED.format(1))
    assert chromium.evaluate("document.querySelectorAll('.asked-question img').length") == 1, (
        "Enter waits for the picture"
    )
    chromium.click("input[value=compare]")
    moves(chromium, "verbosity-B", -2)
    asks(chromium, "w4")
    chromium.wait(ANSWERED.format(3))
    chromium.click("input[value=sweep]")
    asks(chromium, "w5 w6")
    chromium.wait("document.querySelector('#sweep svg') !== null && document.querySelector('#stop').hidden")
    assert texts(chromium, ".answer .problem, #sweep .problem") == []
    chats = re.findall(r"POST /v1/chat/completions: (\d+)", server.said)
    assert chats == ["200"] * 4, "a picture's question, the same conversation at two settings, a sweep"
    reply = server.client().chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "w5 w6"}], extra_body={"sweep": ["verbosity"]}
    )
    shown = "\n".join(texts(chromium, "#sweep"))
    assert all((choice.message.content or "").strip() in shown for choice in reply.choices) and len(reply.choices) == 5
