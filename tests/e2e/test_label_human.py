"""scripts/label.py judge=human as a process: labelled with the keyboard in a real browser, stopped with Ctrl-C."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from nemo_mm_align.schema.records import Annotation, read_records
from tests.browser import Browser, browser  # noqa: F401
from tests.judge_server import Files, make_files
from tests.waiting import PATIENCE_S

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


def test_a_prompt_is_labelled_with_the_keyboard_alone(
    browser: Browser,  # noqa: F811
    tmp_path: Path,
    repository: Path,
) -> None:
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
