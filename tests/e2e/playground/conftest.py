"""The page in a browser, before a server that speaks the API; both are started once for the folder."""

from collections.abc import Iterator

import pytest

from nemo_mm_align.schema.attributes import AttributeSchema
from tests.browser import Browser, open_browser
from tests.e2e.playground.server import Served, serving
from tests.e2e.playground.using import open_page

WATCH = "addEventListener('securitypolicyviolation', e => (window.broken ??= []).push(e.violatedDirective));"


@pytest.fixture(scope="package")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser") / "profile") as opened:
        opened.call("Page.enable")
        opened.screen(1280, 800)
        opened.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        opened.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        yield opened


@pytest.fixture(scope="package")
def server(helpsteer: AttributeSchema) -> Iterator[Served]:
    with serving(Served(helpsteer)) as served:
        yield served


@pytest.fixture
def page(chromium: Browser, server: Served) -> Iterator[Browser]:
    """The page as it opens for the first time; nothing may have broken its policy in the end."""
    server.key, server.refusal, server.cut, server.pause_s = None, None, None, 0.0
    open_page(chromium, server.url)
    server.bodies.clear()
    yield chromium
    assert chromium.evaluate("window.broken") is None
