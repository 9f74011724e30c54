"""What a user of the page does, by keys, mouse and files; what the user finds."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.browser import Browser


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


def add_files(page: Browser, *paths: Path) -> None:
    """Choose files by the button."""
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])


def noise(width: int, height: int) -> bytes:
    """A PNG that does not compress."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()
