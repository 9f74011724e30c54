"""docs/data.md: its commands compose, its table is complete, its example runs."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nemo_mm_align.cli.command import with_own_groups
from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.datasets.prepare.known import KNOWN
from nemo_mm_align.datasets.prepare.settings import PrepareSettings
from nemo_mm_align.datasets.prepare.source import build_source
from nemo_mm_align.datasets.prepare.stage import prepare
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt, read_records
from tests.distributed import REPOSITORY
from tests.unit.prepare.preparing import write_list

TEXT = (REPOSITORY / "docs/data.md").read_text("utf-8")
COMMANDS = re.findall(r"^    python scripts/prepare\.py (.*)$", TEXT.replace("\\\n", " "), re.MULTILINE)
SOURCES = sorted(path.stem for path in (CONF / "prepare/source").glob("*.yaml"))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_compose(command: str) -> None:
    with initialize_config_dir(str(CONF), version_base=None):
        values = OmegaConf.to_container(
            compose("prepare", with_own_groups(shlex.split(command), CONF, "prepare")), resolve=True
        )
    settings = read(PrepareSettings, values)
    source = build_source(settings.source)
    assert settings.gives is None or settings.gives in source.gives


def test_every_source_has_a_command_and_its_fields_a_row() -> None:
    named = {re.findall(r"source=(\w+)", command)[0] for command in COMMANDS}
    assert named == set(SOURCES) == set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE))
    for name in SOURCES:
        source = build_source(yaml.safe_load((CONF / f"prepare/source/{name}.yaml").read_text()))
        row = re.search(rf"^\| `{name}` \|(.*)$", TEXT, re.MULTILINE)
        assert row is not None and source.name == name
        assert row[1].split("|")[1].strip() == ", ".join(source.gives)
        assert all(f"`{key}`" in row[1] or "the same" in row[1] for key in source.keys), name


def test_the_shipped_comment_names_every_source() -> None:
    comment = (CONF / "prepare.yaml").read_text().split("- source: null")[1].split("- override")[0]
    assert sorted(re.findall(r"\w+", comment)) == SOURCES
    assert {source.name for source in KNOWN} <= set(SOURCES)


def test_a_source_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helpsteer: AttributeSchema) -> None:
    for name, text in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", TEXT, re.S):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # of another test
    data = write_list(tmp_path / "d.json", [{"photo": "a.png", "ask": "Who?", "say": "Ann."}])
    settings = {"data": str(data), "out": str(tmp_path / "p.jsonl"), "images": "unchecked"}
    section = yaml.safe_load((tmp_path / "my/source/mine.yaml").read_text())
    prepare(
        read(PrepareSettings, settings | {"source": section, "attribute_schema": helpsteer.model_dump(mode="json")})
    )
    (prompt,) = read_records(tmp_path / "p.jsonl", Prompt)
    assert prompt.turns[0].content == "<image>\nWho?" and prompt.metadata == {"origin": "mine", "answer": "Ann."}
    sys.modules.pop("mine")
