"""What both reports share: values as text, pictures inside the page, and a page that escapes what comes from outside."""

import base64
import io
import math
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from PIL import Image

from nemo_mm_align.reporting.images import image_uri
from nemo_mm_align.reporting.page import render
from nemo_mm_align.reporting.tables import Cell, bracket, cells, fact_lists, flat, measured, number

TABLE = (
    '{% extends "frame" %}{% from "parts" import table %}{% block body %}{{ table(["Head <b>"], rows) }}{% endblock %}'
)


def test_values_that_are_not_defined_are_dashes() -> None:
    assert [number(value) for value in (None, math.nan, 0.0)] == ["–", "–", "0.00"]
    assert measured(None) == Cell("–")


def test_a_format_holds_for_value_and_interval() -> None:
    assert measured(0.255, (-0.1, 0.5), "+.1f") == Cell("+0.3", "[-0.1, +0.5]")
    assert (bracket((0.5, 1), ".0%"), bracket(None)) == ("[50%, 100%]", "")


def test_nested_settings_become_dotted_names() -> None:
    assert list(flat({"a": {"b": 1, "c": {"d": None}}, "e": [2]})) == [("a.b", "1"), ("a.c.d", "None"), ("e", "[2]")]
    assert fact_lists([("Empty", flat({})), ("Full", flat({"a": 1}))]) == [("Full", [("a", "1")])]


def test_cells_are_escaped_and_marked() -> None:
    row = [*cells("<i>", 3), Cell("x", "&", wraps=True, colour="red"), Cell("y", "z", more=("m",), worry="w")]
    page = render(TABLE, "A & B", rows=[row])
    assert page.count("<h1>A &amp; B</h1>") == 1 and '<th scope="col">Head &lt;b&gt;</th>' in page
    assert "<td>&lt;i&gt;</td><td>3</td>" in page
    dot = '<span class="dot" style="background: red"></span>'
    assert f'<td><span class="named">{dot}x</span><small class="wrap">&amp;</small></td>' in page
    assert '<td>y<small>z</small><small>m</small><small class="worry">w</small></td>' in page
    assert row[3].lines == ["y", "z", "m", "w"]


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="rows"):
        render(TABLE, "title")


@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_pictures_are_made_smaller_never_larger(tmp_path: Path, form) -> None:  # type: ignore[no-untyped-def]
    Image.new("RGB", (300, 100), "teal").save(tmp_path / "x.png")
    for edge, size in ((150, (150, 50)), (600, (300, 100))):
        kind, _, data = image_uri(tmp_path / "x.png", edge, form).partition(";base64,")
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (kind, picture.format, picture.size) == (f"data:image/{form}", form.upper(), size)
