"""Exported chat templates as servers use them: found to take parts, the ids of training, refusals instead of silence."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import meta, nodes
from jinja2.exceptions import TemplateError
from PIL import Image
from tokenizers import decoders, pre_tokenizers
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _compile_jinja_template

from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Turn
from tests.unit import toy_tokenizers

QUESTION = [{"role": "user", "content": "What is it?"}]
MACRO = """{%- macro text_of(content) -%}{%- for part in content -%}{{ part['text'] }}{%- endfor -%}{%- endmacro -%}
{%- for message in messages -%}{{ text_of(message['content']) }}{%- endfor -%}"""


@pytest.fixture(params=["vicuna_v1", "chatml"])
def template(request: pytest.FixtureRequest, repository: Path) -> ChatTemplate:
    return ChatTemplate.from_config(yaml.safe_load((repository / f"conf/template/{request.param}.yaml").read_text()))


@pytest.fixture
def vicuna(repository: Path) -> ChatTemplate:
    return ChatTemplate.from_config(yaml.safe_load((repository / "conf/template/vicuna_v1.yaml").read_text()))


# What vLLM (renderers/hf.py) does to find out whether content is to be passed as parts or as one string.


def is_variable(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name


def is_item(node: nodes.Node, name: str, key: str) -> bool:
    if isinstance(node, nodes.Getitem):
        return is_variable(node.node, name) and isinstance(node.arg, nodes.Const) and node.arg.value == key
    return isinstance(node, nodes.Getattr) and is_variable(node.node, name) and node.attr == key


def is_access(node: nodes.Node, name: str, key: str | None = None) -> bool:
    if isinstance(node, nodes.Filter | nodes.Test) and node.node is not None:
        return is_access(node.node, name, key)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return is_access(node.node, name, key)
    return is_item(node, name, key) if key else is_variable(node, name)


def names_of_messages(root: nodes.Template) -> Iterator[str]:
    yield "messages"
    related = deque(["messages"])
    while related:
        known = related.popleft()
        for assign in root.find_all(nodes.Assign):
            if is_access(assign.node, known):
                assert isinstance(assign.target, nodes.Name)
                yield assign.target.name
                if assign.target.name != known:
                    related.append(assign.target.name)


def content_format(text: str) -> str:
    root = _compile_jinja_template(text).environment.parse(text)
    lists, loops = list(names_of_messages(root)), list(root.find_all(nodes.For))
    messages = []
    for loop in loops:
        if any(is_access(loop.iter, name) for name in lists):
            assert isinstance(loop.target, nodes.Name)
            messages.append(loop.target.name)
    found = any(is_access(loop.iter, name, "content") for loop in loops for name in messages)
    return "openai" if found else "string"


def test_servers_pass_parts_and_not_one_string(template: ChatTemplate, helpsteer: AttributeSchema) -> None:
    assert content_format(MACRO) == "string"
    for schema in (None, helpsteer):
        text = template.jinja(schema, "<s>")
        assert content_format(text) == "openai"
        variables = meta.find_undeclared_variables(_compile_jinja_template(text).environment.parse(text))
        assert {"messages", "attributes", "add_generation_prompt"} <= variables  # vLLM drops others


def test_sglang_finds_the_loop_by_its_names(template: ChatTemplate) -> None:
    text = template.jinja()
    loops = _compile_jinja_template(text).environment.parse(text).find_all(nodes.For)
    assert any(is_access(loop.iter, "message", "content") for loop in loops)


def render(
    template: ChatTemplate, messages: list[dict[str, Any]], schema: AttributeSchema | None = None, **more: Any
) -> str:
    given = {"tokenize": False, "chat_template": template.jinja(schema), "add_generation_prompt": True, **more}
    return str(toy_tokenizers.byte_level().apply_chat_template(messages, **given))


@pytest.mark.parametrize("kind", ["image", "image_url", "input_image"])
def test_images_stand_where_the_request_has_them(template: ChatTemplate, kind: str) -> None:
    parts = [
        {"type": "text", "text": "first "}, {"type": kind, "image_url": {"url": "a"}}, {"type": "text", "text": "and"},
        {"type": kind}, {"type": "text", "text": " last"},
    ]  # fmt: skip
    text = "first <image>\nand<image>\n last"
    assert render(template, [{"role": "user", "content": parts}]) == template.render(
        [Turn(role="user", content=text)], True
    )


def test_a_file_as_sglang_reads_it_renders_the_same(template: ChatTemplate, helpsteer: AttributeSchema) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *QUESTION]
    given: dict[str, Any] = {"tokenize": False, "attributes": {"verbosity": 1}}
    tokenizer, text = toy_tokenizers.byte_level(), template.jinja(helpsteer)
    again = tokenizer.apply_chat_template(messages, chat_template=text.replace("\\n", "\n"), **given)
    assert again == tokenizer.apply_chat_template(messages, chat_template=text, **given)


def metaspace_first() -> PreTrainedTokenizerFast:
    """As Llama tokenizers that are not `legacy`: a blank goes before the first word of a text alone."""
    tokenizer = toy_tokenizers.llama_like()
    backend = tokenizer.backend_tokenizer
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


@pytest.mark.parametrize("make", [*toy_tokenizers.ALL.values(), metaspace_first], ids=lambda make: make.__name__)
def test_ids_are_those_of_training_bos_included(template: ChatTemplate, helpsteer: AttributeSchema, make: Any) -> None:
    tokenizer = make()
    encoder = Encoder(tokenizer, template, tokenizer.convert_tokens_to_ids("<image>"), 1, helpsteer)
    tokenizer.chat_template = template.jinja(helpsteer, encoder.bos_text)
    values = helpsteer.complete({"verbosity": 1})
    for content in ("What is it?", "<image>\nWhat is it?"):
        messages = [{"role": "user", "content": content}]
        for attributes in (None, values):
            given: dict[str, Any] = {} if attributes is None else {"attributes": attributes}
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, **given)
            assert ids == encoder.encode_prompt([Turn(role="user", content=content)], attributes)
    whole = tokenizer.apply_chat_template([*QUESTION, {"role": "assistant", "content": "A circle."}])
    trained = encoder.encode_example(
        [Turn(role="user", content="What is it?"), Turn(role="assistant", content="A circle.")]
    )
    assert whole[: len(trained.ids)] == trained.ids
    assert (trained.ids[0] == tokenizer.bos_token_id) is encoder.add_bos


def test_the_template_of_a_model_that_rates_ends_with_the_stop_token(template: ChatTemplate) -> None:
    tokenizer = toy_tokenizers.byte_level()
    encoder = Encoder(tokenizer, template, tokenizer.convert_tokens_to_ids("<image>"), 1)
    text = template.jinja(None, encoder.bos_text, ends_with_answer=True)
    turns = [Turn(role="user", content="What?"), Turn(role="assistant", content="A circle.")]
    for turns_given in (turns, [*turns, *turns]):
        messages = [turn.model_dump() for turn in turns_given]
        assert tokenizer.apply_chat_template(messages, chat_template=text) == encoder.encode_example(turns_given).ids


def test_a_processor_gives_them_with_all_image_tokens(vicuna: ChatTemplate, helpsteer: AttributeSchema) -> None:
    tokenizer = toy_tokenizers.llama_like()
    encoder = Encoder(tokenizer, vicuna, tokenizer.convert_tokens_to_ids("<image>"), 4, helpsteer)
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    text = vicuna.jinja(helpsteer, encoder.bos_text)
    processor = LlavaProcessor(images, tokenizer, 14, "default", text, "<image>", num_additional_image_tokens=1)
    picture = {"type": "image", "image": Image.new("RGB", (28, 28))}
    messages = [{"role": "user", "content": [picture, {"type": "text", "text": "What is it?"}]}]
    found = processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, attributes={"verbosity": 1}
    )
    expected = encoder.encode_prompt(
        [Turn(role="user", content="<image>\nWhat is it?")], helpsteer.complete({"verbosity": 1})
    )
    assert list(found[0]) == expected and expected.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    ("attributes", "fault"),
    [
        ({"verbosty": 0}, "unknown attribute verbosty; known: helpfulness, correctness"),
        ({"Verbosity": 0}, "unknown attribute Verbosity"),
        ({"verbosity": 9}, "attribute verbosity=9 is not a whole number from 0 to 4"),
        ({"verbosity": -1}, "verbosity=-1 is not"),
        ({"verbosity": 2.5}, "verbosity=2.5 is not"),
        ({"verbosity": "2"}, "verbosity=2 is not"),
        ({"verbosity": True}, "verbosity=True is not"),
        ({"verbosity": None}, "verbosity=None is not"),
        ({"verbosity": float("nan")}, "verbosity=nan is not"),
        ({"verbosity": float("inf")}, "verbosity=inf is not"),
        ("verbosity:1", "attributes must be an object"),
        ([1], "attributes must be an object"),
    ],
)  # fmt: skip
def test_attributes_that_do_not_exist_are_refused(
    template: ChatTemplate, helpsteer: AttributeSchema, attributes: Any, fault: str
) -> None:
    with pytest.raises(TemplateError, match=fault):
        render(template, QUESTION, helpsteer, attributes=attributes)


def test_fractions_and_whole_numbers_of_a_schema_of_ones_own(vicuna: ChatTemplate) -> None:
    schema = AttributeSchema(
        name="own", attributes=(Attribute(name="grounded", minimum=0, maximum=1, integer=False),), score=("grounded",)
    )
    assert "Grounded:0.25 ASSISTANT:" in render(vicuna, QUESTION, schema, attributes={"grounded": 0.25})
    with pytest.raises(TemplateError, match=r"attribute grounded=1.01 is not a number from 0 to 1"):
        render(vicuna, QUESTION, schema, attributes={"grounded": 1.01})


def test_whole_numbers_written_as_fractions_are_taken(vicuna: ChatTemplate, helpsteer: AttributeSchema) -> None:
    assert "Verbosity:3 ASSISTANT:" in render(vicuna, QUESTION, helpsteer, attributes={"verbosity": 3.0})


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([{"role": "user", "content": [{"type": "video"}]}], "content of type video is not known"),
        ([*QUESTION, {"role": "assistant", "content": [{"type": "image"}]}], "role assistant"),
        ([{"role": "user", "content": None}], "role user has no content"),
        ([{"role": "user"}], "role user has no content"),
        ([{"role": "tool", "content": "a"}], "got tool"),
        ([*QUESTION, {"role": "system", "content": "a"}], "got system"),
    ],
)  # fmt: skip
def test_messages_that_would_lose_something_are_refused(vicuna: ChatTemplate, messages: list[dict], fault: str) -> None:
    with pytest.raises(TemplateError, match=fault):
        render(vicuna, messages)


def test_attributes_need_a_user_message(vicuna: ChatTemplate, helpsteer: AttributeSchema) -> None:
    with pytest.raises(TemplateError, match="attributes need a user message"):
        render(vicuna, [{"role": "system", "content": "a"}], helpsteer, attributes={"verbosity": 1})


def test_the_template_of_the_package_is_up_to_date(
    repository: Path, vicuna: ChatTemplate, helpsteer: AttributeSchema
) -> None:
    path = repository / "nemo_mm_align/miniature/base/chat_template.jinja"
    assert path.read_text() == vicuna.model_copy(update={"system": ""}).jinja(helpsteer, "<s>")
