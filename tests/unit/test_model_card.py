"""README.md of an export: what was written down stands there, what was not is called so, no path of anybody's machine does."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.run_files import write_facts
from nemo_mm_align.model.head_config import HeadConfig
from nemo_mm_align.parallel.conversion_settings import ConvertSettings
from nemo_mm_align.parallel.model_card import Card, served_flags
from nemo_mm_align.parallel.model_card_results import read_figures
from nemo_mm_align.parallel.source import ModelSource, open_source
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate
from tests.golden.runs import GOLDEN
from tests.unit.evaluation import several_tasks


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "secret/user/llava-base"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def source(tmp_path: Path, base: Path) -> ModelSource:
    run = shutil.copytree(GOLDEN / "run", tmp_path / "run")
    found = open_source(run)
    assert found.metadata is not None
    return replace(found, metadata=found.metadata.model_copy(update={"base_path": str(base)}))


def card(
    source: ModelSource,
    schema: AttributeSchema | None = None,
    form: Any = "whole",
    trained: bool = True,
    **settings: Any,
) -> str:
    config = read(ConvertSettings, {"direction": "export", "source": "run", "out": "out/mine", **settings})
    assert source.metadata is not None
    template = ChatTemplate.from_config(source.metadata.template)
    return Card(source, config, template, schema).text(form, trained)


def front_matter(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text.split("---\n")[1]))


def test_what_nobody_wrote_down_is_called_so(source: ModelSource) -> None:
    text = card(source)
    assert front_matter(text) == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["llava", "nemo_mm_align", "dpo"],
    }
    for line in ("licence of the base", "data", "samples", "judge", "fingerprint of their pictures"):
        assert f"| {line} | not recorded |" in text
    assert "base | not recorded (folder `llava-base`, fingerprint `b88bd411648b858e`)" in text
    assert text.endswith("## Results\n\nNot recorded.\n")
    assert "secret" not in text and "/tmp" not in text


def test_what_the_checkpoint_the_run_and_the_base_say_stands_there(source: ModelSource, base: Path) -> None:
    (base / "README.md").write_text("---\nlicense: llama2\nbase_model: lmsys/vicuna-7b-v1.5\n---\n# A model\n")
    (base / "LICENSE.txt").write_text("\nLLAMA 2 COMMUNITY | LICENSE AGREEMENT\n")
    write_facts(source.folder.parents[1], {"data_files": ["preference.jsonl"], "samples": 9, "epochs": 2.5})
    text = card(source)
    matter = front_matter(text)
    assert (matter["license"], matter["base_model"]) == ("llama2", "lmsys/vicuna-7b-v1.5")
    for line in (
        "| licence of the base | llama2 (by the base's README.md) |",
        "LLAMA 2 COMMUNITY \\| LICENSE AGREEMENT",
        "| data | preference.jsonl |",
        "| samples | 9 |",
        "| fingerprint of the samples | 80e7f31eadbfdfed |",
        "| step of the checkpoint | 3 |",
        "| epochs | 2.5 |",
        "| optim.projector_lr | 0.003 |",
        "| lora.rank | 4 |",
    ):
        assert line in text
    given = {"license": "other", "base_model": "me/mine", "data": ["COCO", "mine"], "judge": "gemini-pro"}
    text = card(source, card=given)
    assert (front_matter(text)["license"], front_matter(text)["base_model"]) == ("other", "me/mine")
    assert "| data | COCO, mine |" in text and "| judge | gemini-pro |" in text


def test_a_base_in_the_hubs_cache_has_its_name(source: ModelSource, tmp_path: Path) -> None:
    cached = tmp_path / "models--llava-hf--llava-1.5-7b-hf/snapshots/0123abc"
    cached.mkdir(parents=True)
    assert front_matter(card(source, base=str(cached)))["base_model"] == "llava-hf/llava-1.5-7b-hf"


def test_attributes_with_ranges_defaults_and_rubric(source: ModelSource, helpsteer: AttributeSchema) -> None:
    text = card(source, helpsteer, generation={"temperature": 0})
    assert "steerable" in front_matter(text)["tags"]
    assert "| `verbosity` | whole numbers, 0 to 4 | 2 |" in text
    assert f"* `verbosity`: 0 = {helpsteer['verbosity'].levels[0]}; 1 = " in text
    assert helpsteer.steering_string({item.name: item.default for item in helpsteer.asked}) in text
    assert 'add_generation_prompt=True, attributes={"verbosity": 0})' in text
    assert '"chat_template_kwargs": {"attributes": {"verbosity": 0}}' in text and "mine@verbosity=0" in text
    assert "vllm serve mine --chat-template mine/chat_template.jinja\n" in text
    assert "servers take from generation_config.json: temperature 0.0." in text


def test_halves_for_servers_name_each_other(source: ModelSource) -> None:
    base, adapter = card(source, form="base"), card(source, form="adapter")
    command = (
        "vllm serve mine/base --chat-template mine/base/chat_template.jinja --enable-lora --max-lora-rank 8 "
        "--lora-modules mine=mine/adapter\n"
    )
    assert command in base and command in adapter
    assert 'from_pretrained("mine/base", dtype="auto")\nmodel = PeftModel.from_pretrained(model, folder)' in adapter
    assert front_matter(adapter)["library_name"] == "peft" and "lora" in front_matter(adapter)["tags"]
    assert [served_flags(rank).split()[-1] for rank in (1, 9, 64, 128, 129)] == ["1", "16", "64", "128", "256"]


def test_adapters_that_are_not_the_model_say_so(source: ModelSource) -> None:
    assert "**The projector was trained**, so that the adapters alone are not this model." in card(source, form="apart")
    assert "The projector is the base's own." in card(source, form="apart", trained=False)


def test_a_model_that_rates_tells_how(source: ModelSource, helpsteer: AttributeSchema) -> None:
    head = HeadConfig(helpsteer.names, "last").to_dict()
    assert source.metadata is not None
    stored = {"head": head, "attribute_schema": helpsteer.model_dump(mode="json"), "lora": None}
    text = card(replace(source, metadata=source.metadata.model_copy(update=stored)))
    assert "reward-model" in front_matter(text)["tags"] and "pipeline_tag" not in front_matter(text)
    assert "| `helpfulness` | whole numbers, 0 to 4 | higher |" in text
    assert "vllm serve mine --runner pooling --convert classify --chat-template mine/chat_template.jinja" in text
    assert "chat_template_kwargs" not in text


def test_figures_of_an_evaluation(source: ModelSource, tmp_path: Path) -> None:
    folder = several_tasks.evaluate(tmp_path / "evaluated", "base", "dpo")
    text = card(source, results=str(folder / "results.json"))
    assert "dialogues, 40 dialogues, judged by openai (gpt-4o-2024-11-20); in brackets 95 % intervals." in text
    found = json.loads((folder / "results.json").read_text())["tasks"]["dialogues"]["methods"]["dpo"]
    score = found["measurements"]["score"]
    assert f"\n| dpo | {score['value']:.2f} ({score['interval']['low']:.2f} to " in text


@pytest.mark.parametrize("content", [None, "", "[]", '{"format": 9}', '{"format": 2, "methods": 3}', "{"])
def test_other_files_are_no_figures(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"results=.*results\.json: (no such file|not a result)"):
        read_figures(path)
