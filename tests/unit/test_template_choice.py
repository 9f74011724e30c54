"""Which template a Hugging Face folder is prompted with, and what is said of its own."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from nemo_mm_align.parallel.source import ModelSource
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.template_choice import choose_template, own_chat_template, own_text

LLAVA_HF = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\\n' }}{% endfor %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""Of the kind that LLaVA-1.5 is published with: no system text, no end of an answer."""


@pytest.fixture
def templates(repository: Path) -> dict[str, ChatTemplate]:
    folder = repository / "conf/template"
    return {path.stem: ChatTemplate.from_config(yaml.safe_load(path.read_text())) for path in folder.glob("*.yaml")}


@pytest.mark.parametrize("name", ["vicuna_v1", "chatml"])
@pytest.mark.parametrize("bos", ["", "<s>"])
def test_the_folders_own_is_found_again(
    tmp_path: Path, templates: dict[str, ChatTemplate], helpsteer: AttributeSchema, name: str, bos: str
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "</s>"}))
    (tmp_path / "chat_template.jinja").write_text(templates[name].jinja(helpsteer, bos))
    choice = choose_template(tmp_path, None)
    assert (choice.template, choice.words, choice.warning) == (templates[name], f"template={name}", None)
    assert "its own chat template" in choice.reason


def test_one_without_system_text_is_found_too(tmp_path: Path, templates: dict[str, ChatTemplate]) -> None:
    plain = templates["vicuna_v1"].model_copy(update={"system": ""})
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": plain.jinja()}))
    choice = choose_template(tmp_path, None)
    assert (choice.template, choice.words) == (plain, "template=vicuna_v1 template.system=''")
    assert choose_template(tmp_path, plain).warning is None


def test_a_folder_without_one_takes_the_default(tmp_path: Path, templates: dict[str, ChatTemplate]) -> None:
    choice = choose_template(tmp_path, None)
    assert (choice.template, choice.warning) == (templates["vicuna_v1"], None)
    assert choice.reason == "the default, since a chat template of its own does not exist"
    assert choose_template(tmp_path, templates["chatml"]).reason == "as given"


def test_another_one_is_said_with_both_texts(tmp_path: Path, templates: dict[str, ChatTemplate]) -> None:
    (tmp_path / "processor_config.json").write_text(json.dumps({"chat_template": LLAVA_HF}))
    for given in (None, templates["vicuna_v1"]):
        choice = choose_template(tmp_path, given)
        assert choice.template == templates["vicuna_v1"]
        assert choice.warning is not None and "none of conf/template/ gives the text of" in choice.warning
        assert "makes 'USER: <image>\\nWhat is it? ASSISTANT:' of a question" in choice.warning
        assert "answers to the user's questions. USER: <image>" in choice.warning


def test_the_right_one_is_named_where_another_is_given(tmp_path: Path, templates: dict[str, ChatTemplate]) -> None:
    (tmp_path / "chat_template.jinja").write_text(templates["chatml"].jinja())
    choice = choose_template(tmp_path, templates["vicuna_v1"])
    assert choice.template == templates["vicuna_v1"]
    assert choice.warning is not None and choice.warning.endswith("template=chatml gives the text of the folder's own")


def test_the_processors_stands_before_the_tokenizers(tmp_path: Path) -> None:
    several = [{"name": "tools", "template": "no"}, {"name": "default", "template": "tokenizer"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert own_chat_template(tmp_path) == "tokenizer"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "older"}))
    assert own_chat_template(tmp_path) == "older"
    (tmp_path / "chat_template.jinja").write_text("newer")
    assert own_chat_template(tmp_path) == "newer"


@pytest.mark.parametrize(
    "text",
    [
        "{{ raise_exception('only tools') }}",
        "{% for",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{% for a in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_templates_that_cannot_be_rendered_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(text)
    assert own_text(tmp_path) is None
    choice = choose_template(tmp_path, None)
    assert (choice.words, choice.reason.endswith("cannot be rendered")) == ("template=vicuna_v1", True)


def test_a_checkpoints_template_is_used_and_another_one_said(
    tmp_path: Path, templates: dict[str, ChatTemplate], caplog: pytest.LogCaptureFixture
) -> None:
    metadata = SimpleNamespace(template=templates["chatml"].model_dump())
    source = ModelSource(tmp_path, metadata, None, tmp_path)  # type: ignore[arg-type]  # its template alone is asked
    with caplog.at_level(logging.WARNING):
        assert source.template(None) == source.template(templates["chatml"]) == templates["chatml"]
        source.check_template(templates["chatml"])
        assert not caplog.messages
        assert source.template(templates["vicuna_v1"]) == templates["chatml"]
        source.check_template(templates["vicuna_v1"])
    assert "template=vicuna_v1 is not read" in caplog.messages[0] and "was trained with chatml" in caplog.messages[0]
    assert "was trained with the template chatml, this training takes vicuna_v1" in caplog.messages[1]
