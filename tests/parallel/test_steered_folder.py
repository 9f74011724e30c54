"""A model that can be asked for attributes, as a Hugging Face folder: asked in transformers, opened here again, trained on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.parallel.source import open_source
from nemo_mm_align.schema.records import CandidateSet, Prompt, read_records
from tests.golden.runs import small_run
from tests.golden.worker import run_scripts
from tests.parallel.test_conditioned import conditioned
from tests.tiny import tiny_llava

pytestmark = pytest.mark.parallel

ASKED = ["attributes.complexity=3", "attributes.verbosity=0"]
SCALE = 'attribute_schema.steering="Wanted, from 0 to 4: {attributes}"'
"""A line that the shipped schemas do not have."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A model trained under a line of its own, exported, imported, exported again; trained on with DPO; and what was said."""
    folder = tmp_path_factory.mktemp("steered")
    tiny_llava(folder / "model")
    conditioned(folder)
    lines = [json.loads(line) for line in (folder / "steerlm.jsonl").read_text().splitlines()]
    prompts = [{"id": line["id"], "images": line["images"], "turns": line["turns"][:1]} for line in lines]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    train = ["checkpoint.keep=1", "model.lora=null"]
    steered = small_run("steered", folder / "model", folder / "steerlm.jsonl", folder, 5)
    later = [*small_run("later", folder / "out", folder / "preference.jsonl", folder, 1), *train]
    plain = [*small_run("plain", folder / "model", folder / "preference.jsonl", folder, 1), *train]
    ask = [f"prompts={folder}/prompts.jsonl", "max_new_tokens=8"]
    calls = [
        ("train.py", ["recipe=steerlm", *steered, *train, SCALE]),
        ("convert.py", ["direction=export", f"source={folder}/steered", f"out={folder}/out"]),
        ("convert.py", ["direction=import", f"source={folder}/out", f"out={folder}/back"]),
        ("convert.py", ["direction=export", f"source={folder}/back", f"out={folder}/again"]),
        *(
            ("generate.py", [f"checkpoint={folder}/{name}", f"out={folder}/{name}.jsonl", *ask, *ASKED])
            for name in ("steered", "out", "back")
        ),
        ("generate.py", [f"checkpoint={folder}/out", f"out={folder}/unasked.jsonl", *ask]),
        ("train.py", ["recipe=dpo", *later]),
        ("convert.py", ["direction=export", f"source={folder}/later", f"out={folder}/later_out"]),
        ("train.py", ["recipe=dpo", *plain]),
        ("convert.py", ["direction=export", f"source={folder}/plain", f"out={folder}/plain_out"]),
    ]
    return folder, run_scripts(folder, calls)


def answers(path: Path) -> list[str]:
    return [item.candidates[0].text for item in read_records(path, CandidateSet)]


def test_transformers_gives_the_answers_that_are_given_here(place: tuple[Path, str]) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    folder, _ = place
    processor = AutoProcessor.from_pretrained(folder / "out")
    model = LlavaForConditionalGeneration.from_pretrained(folder / "out", dtype=torch.float32)
    found = []
    for prompt in read_records(folder / "prompts.jsonl", Prompt):
        messages = [{"role": turn.role, "content": turn.content} for turn in prompt.turns]
        asked = {"complexity": 3, "verbosity": 0}
        text = processor.apply_chat_template(messages, add_generation_prompt=True, attributes=asked)
        assert text.count("Wanted, from 0 to 4: Complexity:3,Verbosity:0") == 1
        pictures = [Image.open(folder / path).convert("RGB") for path in prompt.images] or None
        inputs = processor(text=text, images=pictures, add_special_tokens=False, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        found.append(processor.decode(ids, skip_special_tokens=True).strip())
    assert found == [text.strip() for text in answers(folder / "steered.jsonl")]
    assert found != answers(folder / "unasked.jsonl")


def test_the_example_of_the_model_card_runs(
    place: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = place
    (example,) = re.findall(r"```python\n(.*?)```", (folder / "out/README.md").read_text(), re.DOTALL)
    shutil.copy(next(folder.rglob("*.png")), folder / "picture.png")
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(example.replace("max_new_tokens=256", "max_new_tokens=8"), names)
    assert "<image>\nWhat is it?\nWanted, from 0 to 4: Complexity:2,Verbosity:0" in names["text"]
    said = names["processor"].decode(names["ids"], skip_special_tokens=True)
    assert said.strip() and capsys.readouterr().out == f"{said}\n"


def test_the_folder_is_asked_by_its_own_line_without_being_told(place: tuple[Path, str]) -> None:
    folder, _ = place
    assert answers(folder / "out.jsonl") == answers(folder / "back.jsonl") == answers(folder / "steered.jsonl")
    known = open_source(folder / "out").asking
    assert known is not None
    assert known.line_with_ranges == "Wanted, from 0 to 4: Complexity:0..4,Verbosity:0..4"


def test_imported_and_exported_again_it_says_the_same(place: tuple[Path, str]) -> None:
    folder, _ = place
    assert (folder / "again/config.json").read_text() == (folder / "out/config.json").read_text()
    assert open_source(folder / "back").asking == open_source(folder / "out").asking


def test_a_model_that_is_asked_for_nothing_says_nothing(place: tuple[Path, str]) -> None:
    folder, _ = place
    assert "attribute_schema" not in json.loads((folder / "plain_out/config.json").read_text())
    assert open_source(folder / "plain").asking is None and open_source(folder / "plain_out").asking is None


def test_a_training_that_would_be_asked_otherwise_says_so(place: tuple[Path, str]) -> None:
    """The model is still one that is asked: the export of what DPO made of it carries the schema of that training."""
    folder, said = place
    warning = "was trained to be asked by 'Wanted, from 0 to 4: Complexity:0..4,Verbosity:0..4', this training asks by"
    assert said.count(warning) == 1
    known = open_source(folder / "later_out").asking
    assert known is not None and known.name == "helpsteer" and len(known.asked) == 5


def test_a_schema_that_cannot_be_is_refused_with_its_file(tmp_path: Path) -> None:
    folder = tiny_llava(tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "attribute_schema": {"name": "mine", "attributes": []}}))
    with pytest.raises(UserError, match=r"config\.json: attribute_schema"):
        open_source(folder)
