"""Pages of evaluations in a browser: nothing reaches past a narrow screen, and every fold and table is reached by keys."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nemo_mm_align.evaluation.compare import compare_runs
from tests.unit.evaluation.several_tasks import evaluate

PROBE = """<script>
const open = [...document.querySelectorAll("details")]; open.forEach(one => one.open = true);
const root = document.documentElement, scrolls = [...document.querySelectorAll(".scroll")];
const unreached = scrolls.filter(one => one.scrollWidth > one.clientWidth && one.tabIndex !== 0).length;
parent.postMessage(`width ${root.scrollWidth} of ${root.clientWidth}, ${scrolls.length} tables, ${unreached} unreached`, "*");
</script>"""
FRAME = """<!doctype html><title>nothing</title><script>onmessage = event => document.title = event.data</script>
<iframe src="probed.html" width="{width}" height="900" style="border: 0"></iframe>"""
"""The browser's own window cannot be made as narrow as a telephone's."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    several = evaluate(folder / "several", "base", "dpo", "steerlm")
    runs = [evaluate(folder / name, name) for name in ("base", "dpo", "steerlm")]
    return {"several": several / "report.html", "comparison": compare_runs(runs, folder / "comparison")}


@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("name", ["several", "comparison"])
def test_nothing_reaches_past_the_screen(pages, name, width, tmp_path):
    if shutil.which("chromium") is None:
        reason = "chromium is not installed (apt-get install chromium)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    (tmp_path / "probed.html").write_text(pages[name].read_text().replace("</body>", PROBE + "</body>"))
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]
    command += [
        "--virtual-time-budget=10000",
        "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command += [(tmp_path / "frame.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    found = re.search(r"<title>width (\d+) of (\d+), (\d+) tables, (\d+) unreached</title>", shown)
    assert found, shown[:300]
    reached, seen, tables, unreached = map(int, found.groups())
    assert reached <= seen and width - 20 <= seen <= width and tables > 3 and unreached == 0
