"""Faults, filters, drawing, images, wrong files and second runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import SCRIPTS
from nemo_mm_align.datasets.prepare.summary import PrepareSummary
from nemo_mm_align.schema.examples import PreferenceExample, TrainingExample
from nemo_mm_align.schema.records import Annotation, Prompt, read_records
from tests.unit.prepare.preparing import LINE, conversation, lrv, prepare, steered, write_jsonl, write_list
from tests.unit.prepare.test_sources import FIGURE, RATED, helped, pair, preferred

QUESTIONS = [lrv(str(number), f"What is number {number}?", "word " * number) for number in range(1, 41)]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_list(tmp_path / "lrv.json", QUESTIONS)


def ids(path: Path) -> list[str]:
    return [prompt.id for prompt in read_records(path, Prompt)]


def left(summary: PrepareSummary | None) -> dict[str, int]:
    assert summary is not None
    return dict(summary.dropped)


# Faults


GOOD = steered("a.png", "How?", "Well.", (4, 4, 4, 1, 0))
LINE_HEAD = LINE.partition("\n")[0]
FAULTY: dict[str, dict[str, Any]] = {
    "attribute_line_repeated": conversation(
        f"<image>\nQ\n{LINE.format(*'44410')}\n{LINE.format(*'11111')}", "A", image="a.png"
    ),
    "image_count": conversation(f"<image>\n<image>\nQ\n{LINE.format(*'44410')}", "A", image="a.png"),
    "label_syntax": conversation(f"Q\n{LINE_HEAD}\nHelpfulness:4,Correctness:good", "A"),
    "attribute_value": conversation(f"Q\n{LINE.format(5, 4, 4, 1, 0)}", "A"),
    "unknown_label": conversation(f"Q\n{LINE.format(*'44410')},Humour:3", "A"),
    "label_twice": conversation(f"Q\n{LINE.format(*'44410')},Verbosity:3", "A"),
    "no_attributes": conversation("Q without a line", "A"),
    "attribute_line_earlier": conversation(f"Q\n{LINE.format(*'44410')}", "A", f"R\n{LINE.format(*'44410')}", "B"),
    "attributes_differ": steered("a.png", "Q", "A", (4, 4, 4, 1, 0), attributes_string="Helpfulness:1"),
    "empty_answer": steered("a.png", "Q", " ", (4, 4, 4, 1, 0)),
    "field": {"image": "a.png", "conversations": [{"from": "human", "value": None}]},
    "turn_order": conversation(f"Q\n{LINE.format(*'44410')}"),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_a_malformed_record_is_refused_with_its_number_and_a_remedy(kind: str, tmp_path: Path) -> None:
    data, out = write_list(tmp_path / "steerlm.json", [GOOD, FAULTY[kind]]), tmp_path / "a.jsonl"
    with pytest.raises(UserError, match=r"(?s)1 of 2 records refused.*record 2 .*Remedy: .*on_fault=drop"):
        prepare("steerlm_json", data, out)
    faults = [json.loads(line) for line in Path(f"{out}.faults.jsonl").read_text().splitlines()]
    assert kind in {fault["kind"] for fault in faults} and {fault["where"] for fault in faults} == {"record 2"}
    assert not out.exists() and not Path(f"{out}.summary.json").exists()
    summary = prepare("steerlm_json", data, out, "on_fault=drop")
    assert summary is not None and (summary.records, summary.refused, summary.written) == (2, 1, 1)
    assert kind in summary.faults and Path(f"{out}.faults.jsonl").is_file()


def test_labels_that_the_schema_does_not_have_can_be_left_out(tmp_path: Path) -> None:
    data = write_list(tmp_path / "s.json", [GOOD, FAULTY["unknown_label"]])
    summary = prepare("steerlm_json", data, tmp_path / "a.jsonl", "ignore_labels=[humour]")
    assert summary is not None and summary.written == 2


@pytest.mark.parametrize(
    ("source", "record", "words"),
    [
        ("helpsteer", helped("Hi", "Yo", "3", 1, 4, 0, 0), "helpfulness='3' is not a number"),
        ("helpsteer", helped("Hi", "Yo", 5, 1, 4, 0, 0), "helpfulness=5 is outside 0 to 4"),
        ("helpsteer", helped("Hi", "Yo", 2.5, 1, 4, 0, 0), "helpfulness=2.5 is not a whole number"),
        ("helpsteer", helped("Hi", "Yo", None, 1, 4, 0, 0), "no value for helpfulness"),
        ("helpsteer", helped("Hi", "Yo", [3, 4], 1, 4, 0, 0), "take train.jsonl.gz"),
        ("helpsteer", helped("Hi", None, 3, 1, 4, 0, 0), "response is missing"),
        ("helpsteer2_preference", preferred("2"), "preference_strength is str '2'"),
        ("helpsteer2_preference", preferred(4), "a whole number from -3 to 3"),
        ("lrv", lrv("1", "How?", None), "answer is missing"),
        ("lrv", {"image_id": "", "question": "How?"}, "image_id is ''"),
        ("lrv", lrv("../../secret", "How?"), "does not name a file inside"),
        ("lrv", lrv("1", "How?", task="\ud800"), "half of a character"),
        ("lrv", lrv("1", "How\ud800?"), "half of a character"),
        ("lrv", lrv("1", " "), "a user turn is empty"),
        ("scigraphqa", FIGURE | {"q_a_pairs": []}, "a list of [question, answer]"),
        ("scigraphqa", FIGURE | {"image_file": None}, "image_file is missing"),
        ("mllm_dpo", pair(chosen="Same.", rejected="Same."), "the same text"),
        ("llava", conversation("Q", "A", loss_mask=[1]), "all answers are trained on"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(source: str, record: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        prepare(source, write_jsonl(tmp_path / "data.jsonl", [record]), tmp_path / "out.jsonl")
    assert words in str(refused.value) and "line 1 " in str(refused.value)


# Wrong files


@pytest.mark.parametrize(
    ("source", "record", "words"),
    [
        ("lrv", FIGURE, "source=scigraphqa"),
        ("steerlm_json", conversation("Q", "A"), "source=llava"),
        ("llava", RATED[0], "source=steerlm_json"),
        ("llava", pair(), "source=mllm_dpo"),
        ("scigraphqa", helped("Hi", "Yo", 3, 1, 4, 0, 0), "source=helpsteer"),
        ("helpsteer", preferred(2), "source=helpsteer2_preference"),
        ("llava", {"question_id": 1, "text": "Q"}, "source=questions"),
        ("lrv", {"id": "1", "turns": []}, "needs no preparing"),
        ("lrv", {"messages": []}, "'messages', which training reads as it is"),
        ("lrv", {"1225": {}}, "the keys 1225, which no source has. Known: lrv: LRV-Instruction"),
    ],
)
def test_a_file_of_another_form_names_its_source(
    source: str, record: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"source={source} reads ") as refused:
        prepare(source, write_list(tmp_path / "data.json", [record]), tmp_path / "out.jsonl", "on_fault=drop")
    assert words in str(refused.value) and "the first record has the keys" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.json", "", "no record in it"),
        ("list.json", "[]", "no record in it"),
        ("text.txt", "hello", "holds neither JSON nor JSONL"),
        ("torn.json", '[{"image_id": "1", "question": "Q"', "is it complete"),
        ("object.json", '{\n"a": 1}', "holds one JSON object over several lines"),
    ],
)
def test_files_that_hold_nothing(name: str, content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        prepare("lrv", tmp_path / name, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists() and not list(tmp_path.glob(".*spool"))


def test_every_file_of_a_list_must_be_of_the_form(questions: Path, tmp_path: Path) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", [FIGURE])
    with pytest.raises(UserError, match=r"other\.jsonl: source=lrv reads .*source=scigraphqa"):
        prepare("lrv", [questions, other], tmp_path / "out.jsonl")


def test_a_report_of_ones_own_is_not_removed(questions: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out.jsonl.faults.jsonl").write_text("of an earlier run\n")
    prepare("lrv", questions, tmp_path / "1.jsonl", f"fault_report={tmp_path / 'mine'}")
    prepare("lrv", questions, tmp_path / "out.jsonl")
    assert (tmp_path / "mine").exists() and not (tmp_path / "out.jsonl.faults.jsonl").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        prepare("lrv", tmp_path / "none.json", tmp_path / "out.jsonl")


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    for name, text in (("list.json", json.dumps(QUESTIONS[:1])), ("lines.jsonl", json.dumps(QUESTIONS[0]))):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        prepare("lrv", tmp_path / name, tmp_path / f"{name}.out.jsonl")
        assert len(ids(tmp_path / f"{name}.out.jsonl")) == 1


# What is kept


def test_filters_count_what_they_leave_out(tmp_path: Path) -> None:
    records = [lrv("1", "A?"), lrv("1", "A?", "Yes."), lrv("2", "B?", "one two"), lrv("3", "C?", "a b c d", "counting")]
    data = write_list(tmp_path / "lrv.json", [*records, {"image_id": "4", "question": "D?"}])
    assert left(prepare("lrv", data, tmp_path / "1.jsonl")) == {"the same as an earlier one": 1}
    assert left(prepare("lrv", data, tmp_path / "2.jsonl", "dedupe=false", "tasks=[counting]")) == {"another task": 4}
    words = ("min_answer_words=2", "max_answer_words=3")
    assert left(prepare("lrv", data, tmp_path / "3.jsonl", *words)) == {
        "answer below 2 words": 2,
        "answer above 3 words": 1,
        "no answer whose words could be counted": 1,
    }
    assert ids(tmp_path / "3.jsonl") == ["lrv-3"]


def test_images_and_origins_choose(tmp_path: Path) -> None:
    records = [conversation("<image>\nQ", "A", image="coco/1.jpg"), conversation("<image>\nQ", "A", image="vg/1.jpg")]
    data = write_list(tmp_path / "mix.json", [*records, conversation("Q", "A")])
    assert ids_of(data, tmp_path / "1.jsonl", "has_image=true") == ["mix-1", "mix-2"]
    assert ids_of(data, tmp_path / "2.jsonl", "has_image=false") == ["mix-3"]
    assert ids_of(data, tmp_path / "3.jsonl", "origins=[vg,text]") == ["mix-2", "mix-3"]


def ids_of(data: Path, out: Path, *overrides: str) -> list[str]:
    prepare("llava", data, out, *overrides)
    return ids(out)


def test_numbers_of_records_run_over_all_files(questions: Path, tmp_path: Path) -> None:
    more = write_jsonl(tmp_path / "more.jsonl", QUESTIONS[:3])
    prepare("lrv", [questions, more], tmp_path / "p.jsonl", "records=[38,42]", "dedupe=false")
    assert ids(tmp_path / "p.jsonl") == ["lrv-39", "lrv-40", "more-1", "more-2"]
    with pytest.raises(UserError, match="no record with a number from 99 on"):
        prepare("lrv", questions, tmp_path / "none.jsonl", "records=[99,100]")


def test_drawing_goes_by_id_and_seed(questions: Path, tmp_path: Path) -> None:
    def draw(*overrides: str) -> list[str]:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        prepare("lrv", questions, out, *overrides)
        return ids(out)

    quarter, half, ten = draw("share=0.25"), draw("share=0.5"), draw("count=10")
    assert len(quarter) == 10 and len(half) == 20 and set(quarter) < set(half) and ten == quarter
    assert quarter == sorted(quarter, key=lambda name: int(name.partition("-")[2]))  # in the order of the file
    assert draw("share=0.5", "count=10") == quarter and draw("count=10", "seed=7") != quarter
    early = [name for name in half if int(name.partition("-")[2]) <= 20]  # a place in the order is each id's own
    assert 0 < len(early) < 20 and draw(f"count={len(early)}", "records=[0,20]") == early


def test_a_count_that_cannot_be_reached_is_a_warning(questions: Path, tmp_path: Path) -> None:
    summary = prepare("lrv", questions, tmp_path / "p.jsonl", "count=100")
    assert summary is not None and summary.warnings == ["count=100, but there are 40 to draw from."]


def test_rated_answers_are_drawn_by_their_prompts(tmp_path: Path) -> None:
    summary = prepare("steerlm_json", write_list(tmp_path / "s.json", RATED), tmp_path / "a.jsonl", "count=1")
    (annotation,) = read_records(tmp_path / "a.jsonl", Annotation)
    assert summary is not None and len(annotation.candidates) == {"a": 2, "b": 1}[annotation.prompt.id]


# Images


def test_missing_images_are_named_before_anything_is_written(tmp_path: Path) -> None:
    data, out, images = (
        write_list(tmp_path / "lrv.json", QUESTIONS[:3]),
        tmp_path / "out" / "p.jsonl",
        tmp_path / "images",
    )
    images.mkdir()
    (images / "1.jpg").touch()
    given = (f"image_root={images}", "images=check")
    with pytest.raises(UserError, match=r"2 of 3 images are missing, .*2\.jpg \(id lrv-2\); .*Nothing was written"):
        prepare("lrv", data, out, *given)
    assert not out.exists()
    summary = prepare("lrv", data, out, f"image_root={images}", "images=drop")
    (prompt,) = read_records(out, Prompt)
    assert left(summary) == {"its image is missing": 2} and prompt.images == (str(images / "1.jpg"),)


def test_images_below_the_output_are_relative(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").touch()
    data = write_list(tmp_path / "lrv.json", QUESTIONS[:1])
    prepare("lrv", data, tmp_path / "p.jsonl", f"image_root={tmp_path / 'images'}", "images=check")
    assert next(read_records(tmp_path / "p.jsonl", Prompt)).images == ("images/1.jpg",)


def test_records_without_a_place_for_their_image(tmp_path: Path) -> None:
    data = write_list(tmp_path / "mix.json", [conversation("Q", "A", image="1.jpg")])
    with pytest.raises(UserError, match="or set add_image_placeholders=true"):
        prepare("llava", data, tmp_path / "p.jsonl")
    prepare("llava", data, tmp_path / "p.jsonl", "add_image_placeholders=true")
    assert next(read_records(tmp_path / "p.jsonl", Prompt)).turns[0].content == "<image>\nQ"


# Second runs and the summary


def test_the_same_again_is_said_and_other_settings_are_refused(questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    assert prepare("lrv", questions, out, "count=5") is not None
    content, state = out.read_bytes(), out.stat().st_mtime_ns
    assert prepare("lrv", questions, out, "count=5") is None and out.stat().st_mtime_ns == state
    with pytest.raises(UserError, match="was prepared otherwise: count=5 then, 6 now"):
        prepare("lrv", questions, out, "count=6")
    write_list(questions, QUESTIONS[:30])
    with pytest.raises(UserError, match="otherwise: other data"):
        prepare("lrv", questions, out, "count=5")
    assert out.read_bytes() == content


def test_files_of_others_are_not_written_over(questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    out.write_text("mine\n")
    with pytest.raises(UserError, match=r"no p\.jsonl\.summary\.json that says how it was made"):
        prepare("lrv", questions, out)
    out.unlink()
    prepare("lrv", questions, out)
    out.write_text(out.read_text() + "\n")
    with pytest.raises(UserError, match="was changed after it was prepared"):
        prepare("lrv", questions, out)
    with pytest.raises(UserError, match="is the data file itself"):
        prepare("lrv", questions, questions)


def test_the_summary_says_what_was_read_and_left_out(questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    prepare("lrv", questions, out, "max_answer_words=30", "share=0.5")
    content = json.loads(Path(f"{out}.summary.json").read_text())
    assert (content["records"], content["written"], content["images"]) == (40, 15, 15)
    assert content["dropped"] == {"answer above 30 words": 10, "not drawn": 15}
    assert content["origins"] == content["prompts"] == {"lrv": 15} and content["tasks"] == {"negative": 15}
    assert content["comparison"] == ["lrv: paper: 3,000, here: 15"]
    assert content["identity"]["settings"]["share"] == 0.5 and len(content["sha256"]) == 64


def test_keys_that_nobody_knows_are_a_warning(tmp_path: Path) -> None:
    data = write_list(tmp_path / "lrv.json", [QUESTIONS[0] | {"mood": "good"}])
    summary = prepare("lrv", data, tmp_path / "p.jsonl")
    assert summary is not None and "these keys are not read: mood (1 times)" in summary.warnings[0]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["gives=annotations"], "source=lrv gives prompts or examples"),
        (["records=[3,3]"], "holds none"),
        (["min_answer_words=3", "max_answer_words=2"], "is above max_answer_words"),
        (["share=0"], "share"),
        (["has_image=false"], "no record is left"),
        (["+source.endings=.png"], "source.endings"),
    ],
)
def test_settings_that_cannot_be(overrides: list[str], words: str, questions: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        prepare("lrv", questions, tmp_path / "p.jsonl", *overrides)


def test_the_command(questions: Path, tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(SCRIPTS / "prepare.py"), *words], capture_output=True, text=True)

    given = ["source=lrv", f"data={questions}", f"out={tmp_path / 'p.jsonl'}", "images=unchecked"]
    first, again, bare = run(*given), run(*given), run()
    assert first.returncode == 0 and "paper: 3,000, here: 40" in first.stdout + first.stderr
    assert again.returncode == 0 and "nothing to do" in again.stdout + again.stderr
    assert bare.returncode == 2 and "missing on the command line: source=..." in bare.stdout + bare.stderr


@pytest.mark.parametrize("change", [lambda turns: turns, lambda turns: [*turns, *turns]])
def test_dialogues_keep_all_turns_as_examples(change: Callable[[list[Any]], list[Any]], tmp_path: Path) -> None:
    record = conversation("Q", "A", "R", "B")
    record["conversations"] = change(record["conversations"])
    prepare("llava", write_list(tmp_path / "d.json", [record]), tmp_path / "e.jsonl", "gives=examples")
    (example,) = read_records(tmp_path / "e.jsonl", TrainingExample)
    assert [turn.content for turn in example.turns][:4] == ["Q", "A", "R", "B"]
    assert len(example.turns) == len(record["conversations"])


def test_pairs_give_prompts_as_well(tmp_path: Path) -> None:
    data = write_list(tmp_path / "pairs.json", [pair()])
    prepare("mllm_dpo", data, tmp_path / "p.jsonl", "gives=prompts", "min_answer_words=1")
    (prompt,) = read_records(tmp_path / "p.jsonl", Prompt)
    assert prompt.metadata == {"origin": "scigraphqa", "answer": "Well."} and prompt.turns[-1].role == "user"
    prepare("mllm_dpo", data, tmp_path / "e.jsonl")
    assert next(read_records(tmp_path / "e.jsonl", PreferenceExample)).images == (
        str(Path("scigraph") / "1105.0545v4-Figure7-1.png"),
    )


def test_questions_of_another_form_are_not_taken_for_our_own(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "question.jsonl", [{"question_id": 81, "category": "writing", "turns": ["Q", "R"]}])
    with pytest.raises(UserError, match="question_id, category, turns, which no source has"):
        prepare("questions", data, tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("source.foo=1", "configuration has no key source.foo. Known here"),
        ("source.least_strength=1", "it belongs to source=helpsteer2_preference"),
    ],
)
def test_a_setting_that_the_source_has_not_is_named(questions: Path, tmp_path: Path, word: str, text: str) -> None:
    command = [sys.executable, SCRIPTS / "prepare.py", "source=lrv", f"data={questions}", f"out={tmp_path / 'o'}", word]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False) and text in done.stderr


@pytest.mark.parametrize(
    ("source", "words", "text"),
    [
        ("lrv", ["ignore_labels=[humour]"], r"ignore_labels=\['humour'\]: source=lrv has no use for it"),
        ("lrv", ["question=last"], "question=last: source=lrv has no use for it, each of its records has one question. Leave it"),
        ("llava", ["question=last", "gives=examples"], "question=last: is for gives=prompts; gives=examples takes"),
    ],
)  # fmt: skip
def test_a_setting_that_nothing_would_read_is_refused(
    questions: Path, tmp_path: Path, source: str, words: list[str], text: str
) -> None:
    with pytest.raises(UserError, match=text):
        prepare(source, questions, tmp_path / "p.jsonl", *words)
