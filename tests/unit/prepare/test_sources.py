"""Each source: the published fields become what the next stage reads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.datasets.build_stage import build_from_config
from nemo_mm_align.datasets.sources import SourceSettings, read_examples
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import PreferenceExample, TrainingExample
from nemo_mm_align.schema.prompts import with_attributes
from nemo_mm_align.schema.records import Annotation, Prompt, read_records
from tests.unit.prepare.preparing import conversation, lrv, prepare, steered, write_jsonl, write_list


def test_lrv_gives_prompts(tmp_path: Path) -> None:
    records = [lrv("2392588", "Is there a teapot?"), {"image_id": "two.png", "question": "What kind?"}]
    summary = prepare("lrv", write_list(tmp_path / "filter_cap1.json", records), tmp_path / "p.jsonl")
    first, second = read_records(tmp_path / "p.jsonl", Prompt)
    assert (first.id, first.images) == ("filter_cap1-1", ("2392588.jpg",))
    assert first.turns[0].content == "<image>\nIs there a teapot?"
    assert first.metadata == {"origin": "lrv", "task": "negative", "answer": "No."}
    assert (second.images, second.metadata) == (("two.png",), {"origin": "lrv"})
    assert summary is not None and summary.comparison() == ["lrv: paper: 3,000, here: 2"]


FIGURE = {
    "image_file": "1610.06815v1-Figure4-1.png",
    "id": "1610.06815v1-Figure4-1",
    "caption": "Fig. 4.",
    "title": "Deep Models",
    "abstract": "We.",
    "first_mention": "See Fig. 4.",
    "response": "Question: How? Answer: So.",
    "q_a_pairs": [["How?", "So."], ["And why?", "Because."]],
}
TURNS = conversation("How?\n<image>", "So.", "And why?", "Because.")


@pytest.mark.parametrize("record", [FIGURE, FIGURE | TURNS], ids=["q_a_pairs", "conversations"])
def test_scigraphqa_asks_the_first_question_or_the_last(record: dict[str, Any], tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "train.jsonl", [record])
    prepare("scigraphqa", data, tmp_path / "first.jsonl")
    prepare("scigraphqa", data, tmp_path / "last.jsonl", "question=last", "source.context=[title,caption]")
    (first,) = read_records(tmp_path / "first.jsonl", Prompt)
    (last,) = read_records(tmp_path / "last.jsonl", Prompt)
    assert (first.id, [turn.content for turn in first.turns]) == (FIGURE["id"], ["<image>\nHow?"])
    assert first.metadata["answer"] == "So." and last.metadata["answer"] == "Because."
    assert [turn.content for turn in last.turns] == ["<image>\nDeep Models\nFig. 4.\nHow?", "So.", "And why?"]


def test_llava_examples_are_what_its_trainer_makes_of_them(tmp_path: Path) -> None:
    records = [
        conversation("What?\n<image>", "A cat.", id="000000033471", image="coco/train2017/000000033471.jpg"),
        conversation("<image>\nWho?", "Ann.", id="000000033471", image=["gqa/images/1.jpg"]),
        {
            "id": "sharegpt",
            "conversations": [{"from": "gpt", "value": "Hello."}, *conversation("Hi", "Yes?")["conversations"]],
        },
    ]
    data = write_list(tmp_path / "llava_v1_5_mix665k.json", records)
    summary = prepare("llava", data, tmp_path / "e.jsonl", "gives=examples")
    cat, ann, hello = read_records(tmp_path / "e.jsonl", TrainingExample)
    assert cat.turns[0].content == "<image>\nWhat?"
    assert (cat.id, ann.id) == ("000000033471", "000000033471-2")
    assert [turn.content for turn in hello.turns] == ["Hi", "Yes?"]
    assert summary is not None and dict(summary.origins) == {"coco": 1, "gqa": 1, "text": 1}
    assert summary.numbered == 1 and summary.notes["leading answer without a question left out"] == 1
    assert len(read_examples(SourceSettings(path=str(tmp_path / "e.jsonl")))) == 3


def pair(**fields: Any) -> dict[str, Any]:
    record = {
        "image": "scigraph/1105.0545v4-Figure7-1.png",
        "question": {"from": "human", "value": "<image>\nHow?"},
        "chosen": {"from": "gpt", "value": "Well."},
        "rejected": {"from": "gpt", "value": "Badly."},
        "ref_win_logp": -2.5,
        "ref_rej_logp": -3.5,
        "ref_win_avg_logp": -0.5,
        "ref_win_per_token_logp": [-2.0, -0.5],
    }
    return record | fields


def test_the_papers_pairs(tmp_path: Path) -> None:
    text = "{'from': 'human', 'value': '<image>\\nWhere?'}"  # as a table's column of dicts is written
    records = [pair(), pair(image="lrv_image_folder/1.jpg", question=text), pair(image=None, question="Hm?")]
    data = write_list(tmp_path / "pairs.json", records)
    summary = prepare("mllm_dpo", data, tmp_path / "plain.jsonl")
    prepare("mllm_dpo", data, tmp_path / "with.jsonl", "source.reference_log_probs=true")
    first, second, third = read_records(tmp_path / "plain.jsonl", PreferenceExample)
    assert (first.chosen, first.rejected, first.reference_chosen_log_prob) == ("Well.", "Badly.", None)
    assert (second.turns[0].content, third.images) == ("<image>\nWhere?", ())
    stored = next(read_records(tmp_path / "with.jsonl", PreferenceExample))
    assert (stored.reference_chosen_log_prob, stored.reference_rejected_log_prob) == (-2.5, -3.5)
    broken = write_list(tmp_path / "broken.json", [pair(ref_rej_logp=None)])  # no fault where they are not taken over
    prepare("mllm_dpo", broken, tmp_path / "broken.jsonl")
    with pytest.raises(UserError, match="only one of ref_win_logp and ref_rej_logp"):
        prepare("mllm_dpo", broken, tmp_path / "refused.jsonl", "source.reference_log_probs=true")
    assert summary is not None and summary.comparison() == [
        "lrv: paper: 2,522, here: 1",
        "scigraphqa: paper: 2,660, here: 1",
        "other origins: paper: 0, here: 1",
        "all prompts: paper: 5,182, here: 3",
    ]


RATED = [
    steered("scigraph/1.png", "How?", "Well.", (4, 4, 4, 1, 0), id="a"),
    steered("lrv_image_folder/2.jpg", "Who?", "Ann.", (3, 2, 4, 1, 1), id="b"),
    steered("scigraph/1.png", "How?", "Badly.", (1, 0, 2, 1, 0), id="a"),
]


def test_steerlm_json_becomes_annotations_that_build_reads(tmp_path: Path, helpsteer: AttributeSchema) -> None:
    out = tmp_path / "annotations.jsonl"
    summary = prepare("steerlm_json", write_list(tmp_path / "steerlm.json", RATED), out)
    first, second = read_records(out, Annotation)
    assert [candidate.text for candidate in first.candidates] == ["Well.", "Badly."]
    assert first.candidates[1].ratings == dict(zip(helpsteer.names, (1, 0, 2, 1, 0), strict=True))
    assert first.prompt.turns[0].content == "<image>\nHow?" and second.judge == "gemini"
    assert summary is not None and (summary.written, summary.answers, dict(summary.prompts)) == (
        2,
        3,
        {"scigraphqa": 1, "lrv": 1},
    )
    pairs = tmp_path / "pairs.jsonl"
    with initialize_config_dir(str(CONF), version_base=None):
        build_from_config(compose("build", ["method=preference", f"annotations={out}", f"out={pairs}"]))
    (built,) = read_records(pairs, PreferenceExample)
    assert (built.chosen, built.rejected, built.chosen_score, built.rejected_score) == ("Well.", "Badly.", 12, 3)


def test_steerlm_json_becomes_examples_with_the_same_line(tmp_path: Path, helpsteer: AttributeSchema) -> None:
    prepare("steerlm_json", write_list(tmp_path / "steerlm.json", RATED), tmp_path / "e.jsonl", "gives=examples")
    examples = read_examples(SourceSettings(path=str(tmp_path / "e.jsonl")), helpsteer)
    assert len(examples) == 3 and examples[0].attributes is not None
    asked = with_attributes(examples[0].turns, helpsteer, examples[0].attributes)
    assert asked[0].content == RATED[0]["conversations"][0]["value"]


def test_attributes_that_are_not_asked_for_stay_in_annotations_alone(tmp_path: Path) -> None:
    data = write_list(tmp_path / "steerlm.json", RATED)
    taste = "attribute_schema=helpsteer_taste"
    prepare("steerlm_json", data, tmp_path / "a.jsonl", taste)
    prepare("steerlm_json", data, tmp_path / "e.jsonl", taste, "gives=examples")
    assert len(next(read_records(tmp_path / "a.jsonl", Annotation)).candidates[0].ratings) == 5
    assert next(read_records(tmp_path / "e.jsonl", TrainingExample)).attributes == {"complexity": 1, "verbosity": 0}


@pytest.mark.parametrize("name", ["rejection_json", "sft_json"])
def test_the_papers_answers(name: str, tmp_path: Path) -> None:
    table = {
        "Key": "A",
        "Helpfulness": 4,
        "attributes_string": "Helpfulness:4",
        "prompt": "How?",
        "DatasetName": "scigraph",
    }
    record = conversation("<image>\nHow?", "Well.", image="scigraph/1.png", **table)
    summary = prepare(name, write_list(tmp_path / "answers.json", [record]), tmp_path / "e.jsonl")
    (example,) = read_records(tmp_path / "e.jsonl", TrainingExample)
    assert example.metadata == {"origin": "scigraphqa"} and example.id == "answers-1"
    assert summary is not None and summary.warnings == []
    expected = ["all prompts: paper: 5,034, here: 1"] if name == "rejection_json" else []
    assert summary.comparison() == expected


def helped(prompt: str, response: Any, *ratings: Any) -> dict[str, Any]:
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    return {"prompt": prompt, "response": response, **dict(zip(names, ratings, strict=True))}


LONG = "c#<extra_id_1>Assistant\nA language.<extra_id_1>User\nWhose?"


def test_helpsteer_rows_of_a_prompt_come_together(tmp_path: Path) -> None:
    rows = [
        helped(LONG, "Theirs.", 3, 4, 4, 2, 2),
        helped("Hi", "Yo", 1, 1, 4, 0, 0),
        helped(LONG, "Microsoft's.", 4, 4, 4, 1, 1),
    ]
    data = tmp_path / "train.jsonl.gz"
    with gzip.open(data, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    prepare("helpsteer2", data, tmp_path / "a.jsonl")
    first, second = read_records(tmp_path / "a.jsonl", Annotation)
    assert [(turn.role, turn.content) for turn in first.prompt.turns] == [
        ("user", "c#"),
        ("assistant", "A language."),
        ("user", "Whose?"),
    ]
    assert [candidate.ratings["verbosity"] for candidate in first.candidates] == [2, 1]
    assert first.judge == "people (HelpSteer2)" and second.prompt.id == "train.jsonl-2"
    summary = prepare("helpsteer", data, tmp_path / "p.jsonl", "gives=prompts")
    assert summary is not None and summary.dropped == {"the same as an earlier one": 1}
    prepare("helpsteer", data, tmp_path / "e.jsonl", "gives=examples")
    assert next(read_records(tmp_path / "e.jsonl", TrainingExample)).attributes is not None


def preferred(strength: Any, split: str = "train", prompt: str = "Why?") -> dict[str, Any]:
    return {
        "split": split,
        "prompt": prompt,
        "response_1": "One.",
        "response_2": "Two.",
        "preference_strength": strength,
    }


def test_helpsteer2_preference_goes_by_the_sign(tmp_path: Path) -> None:
    rows = [
        preferred(-2),
        preferred(3, prompt="How?"),
        preferred(0),
        preferred(1, split="val"),
        preferred(1, prompt="Who?"),
    ]
    data = write_jsonl(tmp_path / "preference.jsonl", rows)
    summary = prepare("helpsteer2_preference", data, tmp_path / "e.jsonl", "source.least_strength=2")
    found = [(pair.chosen, pair.rejected) for pair in read_records(tmp_path / "e.jsonl", PreferenceExample)]
    assert found == [("One.", "Two."), ("Two.", "One.")]
    assert summary is not None
    assert summary.dropped == {"a tie": 1, "not of part=train": 1, "preference weaker than 2": 1}


def test_question_files(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"question_id": 7, "image": "scigraph/1.png", "text": "<image>\nHow?", "category": "conv"},
        {"question_id": "t", "text": "Why?"},
    ]
    prepare("questions", write_jsonl(tmp_path / "q.jsonl", rows), tmp_path / "p.jsonl")
    first, second = read_records(tmp_path / "p.jsonl", Prompt)
    assert (first.id, first.turns[0].content) == ("7", "<image>\nHow?")
    assert first.metadata == {"origin": "scigraphqa", "task": "conv"} and second.images == ()


def test_a_source_of_ones_own_must_have_what_a_source_has(tmp_path: Path) -> None:
    data = write_list(tmp_path / "lrv.json", [lrv("1", "How?")])
    with pytest.raises(UserError, match=r"source: PosixPath lacks .*gives"):
        prepare("lrv", data, tmp_path / "p.jsonl", "source={_target_: pathlib.Path}")


def test_data_sets_of_the_hub_as_they_are_stored(tmp_path: Path) -> None:
    """Parquet with lists of structs and empty columns, as `datasets` writes it; a folder of it likewise."""
    import datasets

    rows: list[dict[str, Any]] = [FIGURE | TURNS, FIGURE | TURNS | {"id": "second", "abstract": None}]
    folder = tmp_path / "data"
    folder.mkdir()
    datasets.Dataset.from_list(rows).to_parquet(str(folder / "train-00000-of-00001.parquet"))
    for number, data in enumerate([folder, folder / "train-00000-of-00001.parquet"]):
        prepare("scigraphqa", data, tmp_path / f"{number}.jsonl", "dedupe=false")
        assert [prompt.id for prompt in read_records(tmp_path / f"{number}.jsonl", Prompt)] == [FIGURE["id"], "second"]


def test_images_that_are_stored_inside_the_data(tmp_path: Path) -> None:
    import datasets
    from PIL import Image

    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "red.png")
    stored = {"bytes": (tmp_path / "red.png").read_bytes(), "path": None}
    table = datasets.Dataset.from_list([conversation("<image>\nWhich colour?", "Red.", image=stored)])
    table.to_parquet(str(tmp_path / "mix.parquet"))
    summary = prepare(
        "llava", tmp_path / "mix.parquet", tmp_path / "p.jsonl", f"image_cache={tmp_path}/cache", "images=check"
    )
    (prompt,) = read_records(tmp_path / "p.jsonl", Prompt)
    (image,) = prompt.images
    assert Path(image).read_bytes() == stored["bytes"]
    assert summary is not None and dict(summary.origins) == {"images": 1}
