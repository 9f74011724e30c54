"""Other trainers' formats: they read them, and our own reader gets the same examples back."""

import json
from pathlib import Path

import pytest
from PIL import Image

from nemo_mm_align.datasets.build_settings import PAIR_METHODS
from nemo_mm_align.datasets.builders import BUILDERS
from nemo_mm_align.datasets.sources import SourceSettings, read_examples
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.records import Annotation, Prompt, Turn, write_records
from tests.unit.test_builders import BEST, FAIR, GOOD, POOR, annotation, rated, run

WORDS = ("A red circle .", "I think there is no triangle .", "yes", "no")


def annotations(schema, folder: Path, count: int = 8) -> list[Annotation]:
    """Annotations of prompts with an image each, which lies there."""
    (folder / "img").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 24), (255, 0, 0)).save(folder / "img/a.png")
    candidates = [rated(text, *scores) for text, scores in zip(WORDS, (BEST, GOOD, FAIR, POOR), strict=True)]
    return [annotation(schema, *candidates, name=f"n{index}", reference="yes") for index in range(count)]


def with_prompt(given: Annotation, name: str, *turns: tuple[str, str], images=("img/a.png",)) -> Annotation:
    turns_of = tuple(Turn(role=role, content=content) for role, content in turns)
    return given.model_copy(update={"prompt": Prompt(id=name, images=images, turns=turns_of)})


@pytest.fixture
def build_as(repository, tmp_path, helpsteer, monkeypatch):
    """Build a set in a format through the stage itself; return its path."""
    from hydra import compose, initialize_config_dir

    from nemo_mm_align.datasets.build_stage import build_from_config

    def build(method: str, form: str, given: list[Annotation], *more: str) -> Path:
        write_records(tmp_path / "annotations.jsonl", given)
        out = tmp_path / f"{form}.json"
        overrides = [f"method={method}", f"annotations={tmp_path}/annotations.jsonl", f"out={out}", f"format={form}"]
        with initialize_config_dir(str(repository / "conf"), version_base=None):
            build_from_config(compose("build", overrides=[*overrides, *more]))
        return out

    return build


def summary_of(path: Path) -> dict:
    return json.loads(Path(f"{path}.summary.json").read_text())


def read(path: Path, schema):
    return read_examples(SourceSettings(path=str(path)), schema)


HELD_BY = {
    "trl": sorted({*BUILDERS} - {"attribute_model", "steerlm2"}),  # several answers in a record have no other format
    "llava_dpo": sorted({*BUILDERS} - {"attribute_model", "steerlm2", "labelled"}),
}


@pytest.mark.parametrize(("form", "method"), [(form, method) for form, held in HELD_BY.items() for method in held])
def test_our_reader_gets_the_same_examples_back(build_as, tmp_path, helpsteer, method, form):
    given = annotations(helpsteer, tmp_path)
    given.append(with_prompt(given[0], "text", ("user", "Why ?"), images=()))
    noise = ["method.label_noise=0.5"] if method in PAIR_METHODS else []
    noise += ["attribute_schema=helpsteer"] if method in ("steerlm", "attribute_preference") else []
    noise += ["method.flips=false"] if method == "attribute_preference" else []
    expected = read(build_as(method, "records", given, *noise), helpsteer)
    assert read(build_as(method, form, given, *noise), helpsteer) == expected
    assert len(expected) >= 9 and expected[0].images == (str(tmp_path / "img/a.png"),)


def test_turns_and_systems_survive_in_trl_and_are_named_in_llava(build_as, tmp_path, helpsteer):
    (first,) = annotations(helpsteer, tmp_path, count=1)
    chat = with_prompt(first, "chat", ("user", "<image>\nWhat ?"), ("assistant", "five"), ("user", "I think no ?"))
    system = with_prompt(first, "system", ("system", "yes no"), ("user", "<image>\nWhat ?"))
    two = with_prompt(first, "two", ("user", "<image>\n<image>\nWhat ?"), images=("img/a.png",) * 2)
    inline = with_prompt(first, "inline", ("user", "What <image> ?"))
    given = [first, chat, system, two]
    for method in ("steerlm_paper", "preference"):
        expected = read(build_as(method, "records", given), helpsteer)
        path = build_as(method, "trl", given)
        assert read(path, helpsteer) == expected
    assert summary_of(path)["warnings"] == [
        "1 pairs have no image or several: DPOTrainer of TRL 0.24 takes one image per pair, that of 1.16 any number."
    ]
    (warning,) = summary_of(build_as("sft", "trl", [inline]))["warnings"]
    assert warning.startswith("1 turns have text right behind <image>")
    path = build_as("preference", "llava_dpo", given)
    assert [example.id for example in read(path, helpsteer)] == ["n0"]
    assert {item["reason"]: item["count"] for item in summary_of(path)["dropped"]} == {
        "a pair with earlier turns (format=llava_dpo)": 1,
        "a system turn (format=llava_dpo)": 1,
        "several images (format=llava_dpo)": 1,
    }
    assert [item.id for item in read(build_as("sft", "llava_dpo", given), helpsteer)] == ["n0", "chat"]


def test_llava_records_are_what_the_authors_trainers_read(build_as, tmp_path, helpsteer):
    given = annotations(helpsteer, tmp_path, count=1)
    (record,) = json.loads(build_as("best_worst", "llava_dpo", given).read_text())
    assert record["question"] == {"from": "human", "value": "<image>\nq"} and record["image"] == "img/a.png"
    assert record["chosen"] == {"from": "gpt", "value": WORDS[0]} and record["rejected"]["value"] == WORDS[3]
    record = json.loads(build_as("steerlm_paper", "llava_dpo", given).read_text())[1]
    assert [message["from"] for message in record["conversations"]] == ["human", "gpt"]
    assert record["conversations"][0]["value"] == (
        "<image>\nq\nPlease answer the question such that your response is in the following attributes in 5-point "
        "Likert scale:\nHelpfulness:4,Correctness:4,Coherence:3,Complexity:4,Verbosity:0"
    )


def test_an_unknown_format_is_named(repository, tmp_path):
    done = run(repository, tmp_path, "method=sft", "annotations=a", "out=b", "format=xml")
    assert done.returncode == 2 and "format=xml is unknown; there are records, trl, llava_dpo." in done.stderr


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    from tests.tiny import tiny_llava

    return tiny_llava(tmp_path_factory.mktemp("model"), layers=1)


@pytest.fixture
def processor(llava, repository):
    """Hugging Face's processor of the tiny model, with our chat template."""
    import yaml
    from transformers import AutoTokenizer, CLIPImageProcessor, LlavaProcessor

    template = ChatTemplate.from_config(yaml.safe_load((repository / "conf/template/vicuna_v1.yaml").read_text()))
    tokenizer = AutoTokenizer.from_pretrained(llava)
    tokenizer.pad_token = "<unk>"
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return LlavaProcessor(images, tokenizer, 14, "default", template.jinja(), "<image>", num_additional_image_tokens=1)


def open_for_trl(path: Path):
    """Open a file as TRL's documentation shows."""
    import datasets

    data = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(path.parent / "cache"))
    return data.cast_column("images", datasets.List(datasets.Image()))


@pytest.mark.parametrize("method", ["rejection", "steerlm_paper"])
def test_trls_collator_takes_answers(build_as, tmp_path, helpsteer, processor, method):
    trl = pytest.importorskip("trl.trainer.sft_trainer")
    data = open_for_trl(build_as(method, "trl", annotations(helpsteer, tmp_path)))
    batch = trl.DataCollatorForVisionLanguageModeling(processor)([data[0], data[1]])
    assert batch["pixel_values"].shape == (2, 3, 28, 28)
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert (batch["input_ids"] == image).sum(dim=1).tolist() == [4, 4]
    text = processor.tokenizer.decode(batch["input_ids"][0])
    assert ("Helpfulness" in text) == (method == "steerlm_paper") and text.count("ASSISTANT") == 1


def test_trls_dpo_trains_on_pairs(build_as, tmp_path, helpsteer, llava, processor):
    trl = pytest.importorskip("trl")
    from transformers import LlavaForConditionalGeneration

    given = annotations(helpsteer, tmp_path, count=2)
    given.append(with_prompt(given[0], "two", ("user", "<image>\n<image>\nWhat ?"), images=("img/a.png",) * 2))
    given.append(with_prompt(given[0], "text", ("user", "Why ?"), images=()))
    data = open_for_trl(build_as("preference", "trl", given))
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path / "run"), use_cpu=True, bf16=False, gradient_checkpointing=False, max_steps=2,
        per_device_train_batch_size=4, learning_rate=1e-3, max_length=None,
        remove_unused_columns=False, report_to=[], disable_tqdm=True, save_strategy="no", logging_steps=1,
    )  # fmt: skip
    policy, reference = (LlavaForConditionalGeneration.from_pretrained(llava) for _ in range(2))
    trainer = trl.DPOTrainer(policy, reference, arguments, train_dataset=data, processing_class=processor)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3) and losses[1] < losses[0]
