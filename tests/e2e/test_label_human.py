"""scripts/label.py judge=human as a process: labelled with the keyboard in a real browser, stopped with Ctrl-C."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from nemo_mm_align.schema.records import Annotation, read_records
from tests.judge_server import Files, make_files
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.e2e

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/[\w-]+/")


@contextmanager
def labelling(files: Files, repository: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the entry point; yield the process and the address that it logs."""
    paths = [
        f"prompts={files.prompts_path}",
        f"candidates={files.candidates_path}",
        f"out={files.folder / 'out.jsonl'}",
    ]
    command = [sys.executable, "scripts/label.py", "judge=human", "judge.annotator=anna", "judge.port=0", *paths]
    process = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        found = next(match for line in process.stdout if (match := ADDRESS.search(line)))
        yield process, found[0]
    finally:
        process.kill()
        process.communicate()


class BetweenPages(AssertionError):
    """The browser refused a call; it does so as well while one page gives way to the next."""


class Browser:
    """Chromium, steered over a pipe (the DevTools protocol), without a package or a driver."""

    def __init__(self, folder: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self._session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                data = os.read(self._in, 1 << 16)
                assert data, "the browser has ended"
                self._buffer += data
            line, _, self._buffer = self._buffer.partition(b"\0")
            reply = json.loads(line)
            if reply.get("id") == self._number:
                if "error" in reply:
                    raise BetweenPages(reply)
                return reply["result"]

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression: str) -> None:
        def holds() -> bool:
            with suppress(BetweenPages):
                return bool(self.evaluate(expression))
            return False

        wait_until(holds)

    def press(self, key: str, code: int, modifiers: int = 0, text: str = "") -> None:
        common = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._in)
        os.close(self._out)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if shutil.which("chromium") is None:
        reason = "chromium is not installed (apt-get install chromium)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


def test_a_prompt_is_labelled_with_the_keyboard_alone(browser: Browser, tmp_path: Path, repository: Path) -> None:
    files = make_files(tmp_path, 1)
    with labelling(files, repository) as (process, address):
        browser.call("Page.navigate", url=address)
        browser.wait("document.activeElement?.type === 'radio' && document.images[0]?.complete")
        assert browser.evaluate("document.images[0].naturalWidth") == 8, "the page's policy lets its images through"
        assert browser.evaluate("getComputedStyle(document.querySelector('.bar')).position") == "sticky", (
            "and its style"
        )
        shown = browser.evaluate(
            "[...document.querySelectorAll('article')].map(a => a.querySelector('pre')?.innerText ?? '')"
        )
        browser.press("Enter", 13, modifiers=2)
        assert browser.evaluate("document.querySelectorAll('input:invalid').length") == 100, "nothing is sent unfilled"
        browser.evaluate("document.querySelector('input[type=radio]').focus()")
        for position in range(4):
            for attribute in range(5):
                digit = str((2 * position + attribute) % 5)
                browser.press(digit, ord(digit), text=digit)
        assert browser.evaluate("document.activeElement.id") == "save", "the last digit leads to the button"
        browser.press("Enter", 13, modifiers=2)
        browser.wait("document.getElementById('complete') !== null")
        browser.evaluate("document.getElementById('back').click()")
        browser.wait("document.activeElement?.type === 'radio'")
        assert browser.evaluate("document.querySelectorAll('input:checked').length") == 20, "what was saved is shown"
        browser.press("4", ord("4"), text="4")
        browser.press("Enter", 13, modifiers=2)
        browser.wait("document.getElementById('complete') !== null")
        browser.evaluate("document.getElementById('stop').click()")
        browser.wait("document.getElementById('finished') !== null")
        process.wait(PATIENCE_S)
    assert process.returncode == 0
    (annotation,) = read_records(tmp_path / "out.jsonl", Annotation)
    by_text = {candidate.text.strip(): list(candidate.ratings.values()) for candidate in annotation.candidates}
    for position, text in enumerate(shown):
        entered = [(2 * position + attribute) % 5 for attribute in range(5)]
        assert by_text[text.strip()] == ([4, *entered[1:]] if position == 0 else entered)


def test_ctrl_c_keeps_what_was_saved(tmp_path: Path, repository: Path) -> None:
    files = make_files(tmp_path, 2)
    with labelling(files, repository) as (process, address):
        page = requests.get(address, timeout=60).text
        fields = dict.fromkeys(re.findall(r'name="(score-[^"]+)"', page), "3")
        key = re.search(r'name="key" value="([0-9a-f]+)"', page)
        assert key and requests.post(address, data={"key": key[1], **fields}, timeout=60).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGINT
    (annotation,) = read_records(tmp_path / "out.jsonl", Annotation)
    assert annotation.judge == "human:anna" and annotation.candidates[0].ratings["verbosity"] == 3
