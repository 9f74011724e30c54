"""The playground's files and routes: nothing from elsewhere, nothing inline, every name that is used exists."""

import fnmatch
import re
import tomllib

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from nemo_mm_align.serving.playground_route import page_files, playground_router

FILES = {name: file.data.decode() for name, file in page_files().items()}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}
NAMESPACE = "http://www.w3.org/2000/svg"


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(playground_router(1234, 5678, scores=True))
    return TestClient(app)


def test_nothing_comes_from_elsewhere():
    for name, text in FILES.items():
        assert not re.findall(r"(?:https?:)?//[\w-]+\.\w|\burl\(|@import", text.replace(NAMESPACE, "")), name
    assert len(SCRIPTS) > 10


def test_the_policy_lets_no_inline_code_in_and_the_page_holds_none(client):
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
    page = FILES["index.html"]
    assert not re.findall(r"<style|<script(?![^>]*src=)|\sstyle=|\son\w+=|javascript:", page)
    for name, text in SCRIPTS.items():
        assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )


def test_ids_and_modules_that_scripts_name_exist():
    ids = re.findall(r'\bid="([\w-]+)"', FILES["index.html"])
    assert len(ids) == len(set(ids))
    for name, text in SCRIPTS.items():
        used = set(re.findall(r'byId\("([\w-]+)"\)', text))
        assert used <= set(ids), (name, used - set(ids))
        for imported, module in re.findall(r'import (.*?) from "\./([\w.]+)"', text):
            exported = re.findall(r"^export (?:async )?(?:const|class|function\*?) (\w+)", FILES[module], re.MULTILINE)
            names = re.findall(r"\w+", imported.split(" as ")[0].strip("{} ")) if imported.startswith("{") else []
            assert set(names) <= set(exported), (name, module, set(names) - set(exported))
    for reference in re.findall(r'(?:for|aria-labelledby|aria-describedby)="([\w-]+)"', FILES["index.html"]):
        assert reference in ids


def test_every_file_is_in_the_wheel(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = project["package-data"]["nemo_mm_align.serving"]
    assert "nemo_mm_align.serving" in project["packages"]
    assert all(any(fnmatch.fnmatch(f"playground/{name}", pattern) for pattern in patterns) for name in FILES)
    assert {path.name for path in (repository / "nemo_mm_align/serving/playground").iterdir()} == set(FILES)


def test_the_page_its_files_and_its_configuration(client):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    script = client.get("/playground/main.js")
    assert script.text == FILES["main.js"] and script.headers["content-type"].startswith("text/javascript")
    assert script.headers["x-content-type-options"] == "nosniff" and script.headers["cache-control"] == "no-cache"
    again = client.get("/playground/main.js", headers={"If-None-Match": f'"x", W/{script.headers["etag"]}'})
    assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == script.headers["etag"]
    expected = {"models_path": "/v1/models", "scores": True, "max_image_bytes": 1234, "max_image_pixels": 5678}
    assert client.get("/playground/config.json").json() == expected


def test_other_addresses_lead_to_the_page_or_nowhere(client):
    for address, target in (("/playground", "./"), ("/playground/", "../")):
        assert client.get(address, follow_redirects=False).headers["location"] == target
        assert client.get(address).text == FILES["index.html"]
    for name in ("nothing.js", "index.html", "..%2f__init__.py", "%2e%2e/__init__.py", "a/b.js"):
        assert client.get(f"/playground/{name}").status_code == 404
