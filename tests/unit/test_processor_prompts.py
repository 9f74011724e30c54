"""What an exported folder makes of whole conversations: ids of training, by transformers' own processor opened from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jinja2.exceptions import TemplateError
from PIL import Image
from transformers import AutoProcessor, LlavaProcessor

from nemo_mm_align.model.config import LanguageConfig, LlavaConfig, VisionConfig
from nemo_mm_align.model.huggingface_export import Companions
from nemo_mm_align.model.huggingface_origin import Origin, travelling_files
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Turn
from tests.unit import toy_tokenizers

TEMPLATES = ("vicuna_v1", "chatml", "nemo_aligner")
PICTURE = {"type": "image", "image": Image.new("RGB", (28, 28))}

Part = str | dict[str, Any]


def text(value: str) -> Part:
    return {"type": "text", "text": value}


CONVERSATIONS: dict[str, list[tuple[str, list[Part], str]]] = {
    "text": [("user", [text("What is it?")], "What is it?")],
    "image first": [("user", [PICTURE, text("What is it?")], "<image>\nWhat is it?")],
    "interleaved": [
        ("user", [text("Is "), PICTURE, text("like "), PICTURE, text("?")], "Is <image>\nlike <image>\n?"),
    ],
    "several turns": [
        ("user", [PICTURE, text("What is it?")], "<image>\nWhat is it?"),
        ("assistant", [text("A red circle.")], "A red circle."),
        ("user", [text("And "), PICTURE, text("?")], "And <image>\n?"),
    ],
    "system": [
        ("system", [text("Answer in a word.")], "Answer in a word."),
        ("user", [PICTURE, text("What is it?")], "<image>\nWhat is it?"),
    ],
}  # fmt: skip
"""Role, parts as a client sends them, and the same turn as a record has it."""


def config(image_size: int, vocabulary: int, image_token: int) -> LlavaConfig:
    return LlavaConfig(
        language=LanguageConfig(
            num_layers=1, hidden_size=8, ffn_hidden_size=8, num_attention_heads=1, vocab_size=vocabulary
        ),
        vision=VisionConfig(
            num_layers=2, hidden_size=8, ffn_hidden_size=8, num_attention_heads=1, image_size=image_size, patch_size=14
        ),
        image_token_id=image_token,
    )


def export(folder: Path, tokenizer: Any, chat_template: str, image_size: int = 28, **stale: Any) -> Any:
    """Write all files of an export but its weights; return transformers' processor of them.

    Args:
        stale: what processor_config.json of the base says.
    """
    base = folder / "base"
    tokenizer.save_pretrained(base)
    if stale:
        (base / "processor_config.json").write_text(json.dumps(stale))
    out = folder / "out"
    out.mkdir()
    sizes = config(image_size, len(tokenizer), tokenizer.convert_tokens_to_ids("<image>"))
    origin = Origin.of_config(sizes, torch.float32, travelling_files(base))
    Companions(chat_template, ImageProcessor(image_size=image_size).to_hf(), {}).write(out, origin)
    (out / "config.json").write_text(json.dumps(origin.config))
    return AutoProcessor.from_pretrained(out)


@pytest.fixture(params=TEMPLATES)
def template(request: pytest.FixtureRequest, repository: Path) -> ChatTemplate:
    return ChatTemplate.from_config(yaml.safe_load((repository / f"conf/template/{request.param}.yaml").read_text()))


def test_ids_of_every_conversation_are_those_of_training(
    template: ChatTemplate, helpsteer: AttributeSchema, tmp_path: Path
) -> None:
    tokenizer = toy_tokenizers.llama_like()
    if template.stop not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"eos_token": template.stop})
    encoder = Encoder(tokenizer, template, tokenizer.convert_tokens_to_ids("<image>"), 4, helpsteer)
    processor = export(tmp_path, tokenizer, template.jinja(helpsteer, encoder.bos_text))
    assert isinstance(processor, LlavaProcessor)
    whole = helpsteer.complete({"verbosity": 1, "complexity": 0})
    for name, conversation in CONVERSATIONS.items():
        messages = [{"role": role, "content": parts} for role, parts, _ in conversation]
        turns = [Turn(role=role, content=content) for role, _, content in conversation]  # type: ignore[arg-type]
        for asked in (None, {"verbosity": 0}, whole):
            given = {} if asked is None else {"attributes": asked}
            found = processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, **given)
            values = None if asked is None else helpsteer.complete(asked)
            assert list(found[0]) == encoder.encode_prompt(turns, values), (name, asked)
    with pytest.raises(TemplateError, match="unknown attribute length"):
        processor.apply_chat_template(messages, tokenize=True, attributes={"length": 1})


@pytest.mark.parametrize(
    "stale",
    [
        {},
        {"processor_class": "LlavaProcessor", "patch_size": None, "num_additional_image_tokens": 0},
        {"processor_class": "LlavaProcessor", "vision_feature_select_strategy": "full", "image_token": "<image>"},
    ],
    ids=["none", "sizes missing", "other strategy"],
)
def test_an_image_becomes_576_tokens_whatever_the_base_said(stale: dict[str, Any], tmp_path: Path) -> None:
    """575 where the additional token is missing, none added where the patch size is (transformers, 36002)."""
    tokenizer = toy_tokenizers.llama_like()
    processor = export(tmp_path, tokenizer, "unused", 336, **stale)
    inputs = processor(text="<image>\nWhat?", images=Image.new("RGB", (60, 40)), return_tensors="pt")
    count = int((inputs["input_ids"] == processor.image_token_id).sum())
    ours = config(336, len(tokenizer), processor.image_token_id)
    assert count == ours.tokens_per_image == 576
    assert json.loads((tmp_path / "out/config.json").read_text())["image_seq_length"] == 576
