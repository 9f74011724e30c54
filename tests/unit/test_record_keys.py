"""Nothing in a record is passed over unread: keys that are used, kept, warned of or refused, as docs/records.md says."""

import json
import logging
import re
from pathlib import Path

import pytest
from PIL import Image

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.formats import FORMATS, detect, keys
from nemo_mm_align.datasets.sources import SourceSettings, read_examples
from nemo_mm_align.schema.records import Annotation, CandidateSet, Prompt, read_records

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/records.md"

ASKED = {"role": "user", "content": "<image>\nWhich tree?"}
SAID = {"role": "assistant", "content": "an oak"}
CHAT = {"id": "t", "images": ["oak.png"], "messages": [ASKED, SAID]}
CHAT_PAIR = {"id": "t", "images": ["oak.png"], "prompt": [ASKED], "chosen": "an oak", "rejected": "an elm"}
LLAVA = {
    "id": "t",
    "image": "oak.png",
    "conversations": [{"from": "human", "value": "<image>\nWhich tree?"}, {"from": "gpt", "value": "an oak"}],
}
LLAVA_PAIR = {
    "id": "t",
    "image": "oak.png",
    "question": "<image>\nWhich tree?",
    "chosen": "an oak",
    "rejected": "an elm",
}
NEMO_PAIR = {
    "prompt": "<extra_id_0>System\n\n<extra_id_1>User\nWhich tree?\n<extra_id_1>Assistant\n",
    "chosen_response": "an oak\n<extra_id_1>",
    "rejected_response": "an elm\n<extra_id_1>",
}
NEMO = {"mask": "User", "conversations": [{"from": "User", "value": "q"}, {"from": "Assistant", "value": "a"}]}
OWN = {"id": "t", "images": ["oak.png"], "turns": [ASKED, SAID]}
OWN_PAIR = {"id": "t", "turns": [{"role": "user", "content": "q"}], "chosen": "an oak", "rejected": "an elm"}
OTHERS = [CHAT, CHAT_PAIR, LLAVA, LLAVA_PAIR, NEMO_PAIR, NEMO]


def read(folder, *records, schema=None, **settings):
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return read_examples(SourceSettings(path=str(path), image_cache=str(folder / "cache"), **settings), schema)


def fault(folder, *records, **settings) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, *records, **settings)
    return str(caught.value)


def with_message_key(record: dict, **extra) -> dict:
    """The record with a key more in its last message."""
    name = "messages" if "messages" in record else "conversations"
    *first, last = record[name]
    return record | {name: [*first, last | extra]}


@pytest.mark.parametrize("record", OTHERS, ids=lambda record: " ".join(record))
@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({"weight": 0.5}, "'weight' is not read: every record and answer weighs the same"),
        ({"Loss-Weight": 2}, "'Loss-Weight' is not read"),
        ({"loss_mask": [1, 0]}, "'loss_mask' is not read: all answers are trained on"),
        ({"video": "oak.mp4"}, "'video' is not read: only images and text"),
        ({"audios": ["wind.wav"]}, "'audios' is not read"),
        ({"tools": [{"name": "axe"}]}, "'tools' is not read: tools and their calls"),
        ({"history": [["a", "b"]]}, "'history' is not read: it would not come into the prompt"),
        ({"attributes": {"verbosity": 1}}, "'attributes' is not read"),
    ],
)
def test_a_key_that_would_change_the_training_is_refused_by_name_and_line(tmp_path, record, extra, why):
    text = fault(tmp_path, record, record | extra)
    assert "1 of 2 records refused" in text and "line 2 " in text and why in text
    assert len(read(tmp_path, record, record | dict.fromkeys(extra))) == 2  # null says nothing


@pytest.mark.parametrize("record", [CHAT, LLAVA, NEMO], ids=lambda record: " ".join(record))
@pytest.mark.parametrize("extra", [{"weight": 0}, {"train": False}, {"image": "oak.png"}, {"tool_calls": [{"id": 1}]}])
def test_a_key_of_a_message_is_refused_likewise(tmp_path, record, extra):
    assert f"[].{next(iter(extra))}' is not read" in fault(tmp_path, record, with_message_key(record, **extra))
    assert len(read(tmp_path, with_message_key(record, weight=1, train=None, tool_calls=[]))) == 1


def test_what_says_which_format_is_meant_settles_keys_of_others(tmp_path):
    both = {
        "messages": [ASKED, SAID],
        "images": ["oak.png"],
        "chosen": [ASKED, SAID],
        "rejected": [ASKED, SAID | {"content": "x"}],
    }
    assert "'chosen' is not read: it belongs to another format" in fault(tmp_path, both)
    (single,), (pair,) = (read(tmp_path, both, format=name) for name in ("messages", "messages_dpo"))
    assert single.turns[-1].content == "an oak" and (pair.chosen, pair.rejected) == ("an oak", "x")
    assert single.metadata == pair.metadata == {}


def test_a_prompt_beside_messages_may_only_repeat_the_question(tmp_path):
    assert len(read(tmp_path, CHAT | {"prompt": ASKED["content"]})) == 1
    assert "prompt is not the first question" in fault(tmp_path, CHAT | {"prompt": "Which bird?"})


def test_harmless_keys_are_kept_and_unknown_ones_are_said_once(tmp_path, caplog):
    known = {"source": "park", "origin_split": "{}", "ds_name": "x", "idx": 3, "image_path": "elsewhere/oak.png"}
    with caplog.at_level(logging.WARNING):
        first, *_ = read(
            tmp_path, LLAVA | known, with_message_key(LLAVA, mood="calm", lang="en"), LLAVA | {"mood": 1, "age": 2}
        )
    assert first.metadata == known
    (warning,) = [record.getMessage() for record in caplog.records]
    assert re.search(r"keys: .*mood \(1 times\).*", warning) and "conversations[].mood (1 times)" in warning
    assert "source" not in warning
    caplog.clear()
    read(tmp_path, LLAVA | known)
    assert not caplog.records


def test_the_warning_has_a_bound(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        read(tmp_path, LLAVA | {f"{'k' * 500}{number}": 1 for number in range(90)})
    assert "and 70 more" in caplog.text and len(caplog.records[0].getMessage()) < 3000


def test_a_picture_of_another_name_alone_is_refused(tmp_path):
    record = {
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
        "image_path": "oak.png",
    }
    assert "'image_path' names a picture, but the record has no image or images. Remedy: call it image." in fault(
        tmp_path, record
    )


def test_own_records_refuse_every_unknown_key(tmp_path):
    assert "unknown key 'source'" in fault(tmp_path, OWN | {"source": "park"})
    assert "'turns[].weight' is not read" in fault(tmp_path, OWN | {"turns": [ASKED, SAID | {"weight": 0}]})


@pytest.mark.parametrize(
    ("fields", "images"),
    [
        ({"image": None, "images": ["oak.png"]}, ["oak.png"]),
        ({"image": "oak.png", "images": None}, ["oak.png"]),
        ({"image": "oak.png", "images": []}, ["oak.png"]),
        ({"image": "oak.png", "images": ["oak.png"]}, ["oak.png"]),
        ({"image": {"bytes": None, "path": "oak.png"}, "images": [None, ""]}, ["oak.png"]),
    ],
)
def test_an_empty_key_does_not_hide_its_sibling(tmp_path, fields, images):
    (example,) = read(tmp_path, {"messages": [ASKED, SAID], **fields})
    assert [Path(image).name for image in example.images] == images


def test_an_empty_column_of_another_format_does_not_hide_the_records_own(tmp_path):
    empty = {"turns": None, "conversations": [], "chosen": None, "rejected": ""}
    assert read(tmp_path, empty | CHAT) == read(tmp_path, CHAT)
    assert read(tmp_path, {"messages": None} | LLAVA_PAIR) == read(tmp_path, LLAVA_PAIR)
    assert "conversations is list '[]'" in fault(tmp_path, LLAVA | {"conversations": []})


def test_two_keys_for_pictures_must_agree(tmp_path):
    text = fault(tmp_path, CHAT, CHAT | {"image": "elm.png"})
    assert "line 2 (id t): image and images name different pictures" in text


def test_parts_of_a_message_are_read_to_the_last_key(tmp_path):
    def chat(*parts):
        return {"images": ["a.png", "b.png"], "messages": [{"role": "user", "content": list(parts)}, SAID]}

    def image(**extra):
        return {"type": "image", "text": None, **extra}

    text = {"type": "text", "text": "Which?", "index": None}
    (example,) = read(tmp_path, chat(image(index=0), image(index=1), text))
    assert example.turns[0].content == "<image>\n<image>\nWhich?"
    assert "image parts have the indices [1, 0]" in fault(tmp_path, chat(image(index=1), image(index=0), text))
    assert "a part of type image with image, which is not read" in fault(
        tmp_path, chat(image(image="c.png"), image(), text)
    )
    assert "a part of type text with mask" in fault(tmp_path, chat(image(), image(), text | {"mask": True}))


@pytest.mark.parametrize(
    "answer",
    [
        '{"from": "Oslo", "value": "4 km"}',
        '{"value": "x", "from": "gpt", "unit": 1}',
        "{'value': 'x'}",
        "{[1]: 2}",
        "{" * 9000,
    ],
)
def test_an_answer_that_is_json_stays_as_it_is(tmp_path, answer):
    (pair,) = read(tmp_path, LLAVA_PAIR | {"chosen": answer, "rejected": str({"from": "gpt", "value": "an elm"})})
    assert (pair.chosen, pair.rejected) == (answer, "an elm")
    (pair,) = read(tmp_path, LLAVA_PAIR | {"chosen": json.dumps({"from": "human", "value": "an oak"})})
    assert pair.chosen == '{"from": "human", "value": "an oak"}'
    (pair,) = read(tmp_path, LLAVA_PAIR | {"chosen": {"from": None, "role": "gpt", "value": None, "content": "an oak"}})
    assert pair.chosen == "an oak"
    assert "chosen has value and content" in fault(
        tmp_path, LLAVA_PAIR | {"chosen": {"value": "an oak", "content": "a fir"}}
    )
    assert "chosen.from is str 'human'" in fault(
        tmp_path, LLAVA_PAIR | {"chosen": {"from": "human", "value": "an oak"}}
    )


@pytest.mark.parametrize(
    "scores",
    [
        {"chosen_score": 1, "rejected_score": 2.5},
        {"score_chosen": 1, "score_rejected": 2.5},
        {"chosen-rating": 1, "rejected-rating": 2.5},
    ],
)
@pytest.mark.parametrize("record", [LLAVA_PAIR, CHAT_PAIR], ids=["llava", "chat"])
def test_a_pair_whose_scores_say_the_opposite_is_a_fault(tmp_path, caplog, record, scores):
    assert "chosen scores 1, below rejected's 2.5" in fault(tmp_path, record | scores).replace("1.0,", "1,")
    assert len(read(tmp_path, record | scores | {"metadata": {"flipped": True}})) == 1
    with caplog.at_level(logging.WARNING):
        read(tmp_path, record, record | dict.fromkeys(scores, 2))
    assert "equal scores in 1 of 2 pairs" in caplog.text


def test_own_and_nemo_pairs_are_looked_at_as_well(tmp_path):
    assert "chosen scores 1.0, below" in fault(tmp_path, OWN_PAIR | {"chosen_score": 1, "rejected_score": 2})
    assert "chosen scores 1.0, below" in fault(tmp_path, NEMO_PAIR | {"chosen_reward": 1, "rejected_reward": 2})


def test_a_label_of_the_users_turn_is_not_passed_over(tmp_path, helpsteer):
    conversations = [{"from": "User", "value": "q", "label": "verbosity:1"}, {"from": "Assistant", "value": "a"}]
    assert "a turn of the user's has a label" in fault(
        tmp_path, NEMO | {"conversations": conversations}, schema=helpsteer
    )


@pytest.mark.parametrize("record", [CHAT, LLAVA, CHAT_PAIR, OWN], ids=lambda record: " ".join(record))
def test_places_of_images_are_added_where_that_is_asked_for(tmp_path, record):
    bare = json.loads(json.dumps(record).replace("<image>\\n", ""))
    assert "or set data.add_image_placeholders=true" in fault(tmp_path, bare)
    assert read(tmp_path, bare, add_image_placeholders=True) == read(tmp_path, record)
    assert read(tmp_path, record, add_image_placeholders=True) == read(tmp_path, record)
    two = (
        bare | {"image": None, "images": ["a.png", "b.png"]}
        if "image" in bare
        else bare | {"images": ["a.png", "b.png"]}
    )
    (example,) = read(tmp_path, two, add_image_placeholders=True)
    assert example.turns[0].content == "<image>\n<image>\nWhich tree?"
    short = json.loads(json.dumps(two).replace("Which tree?", "<image>\\nWhich tree?"))
    text = fault(tmp_path, short, add_image_placeholders=True)
    assert "1 <image> placeholders for 2 images. Remedy: write <image> once per image." in text


def names(cell: str) -> set[str]:
    return set(filter(None, re.split(r"[,\s]+", cell)))


def test_the_document_lists_what_the_code_does():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in DOCUMENT.read_text("utf-8").split("## Keys")[1].splitlines()
        if line[:1] == "|"
    ]
    formats = {row[0].strip("`"): row for row in rows if row[0].startswith("`")}
    assert list(formats) == list(FORMATS)
    for name, (_, has, used, messages) in formats.items():
        form = FORMATS[name]
        assert names(has) == set(form.keys) and names(used) == set(form.used), name
        assert names(messages) == {key for used in form.messages.values() for key in used}, name
    listed = [names(row[0]) for row in rows if len(row) == 2][2:-1]
    groups = (keys.METADATA, keys.IMAGE_NAMES, keys.WEIGHTS, keys.LOSS_MASKS, keys.MEDIA, keys.TOOLS, keys.CONTEXT)
    assert listed == [set(group) for group in (*groups, keys.OTHER_FORMATS)]
    assert set(keys.REFUSED) == set().union(*groups[2:], keys.OTHER_FORMATS)


def sample_lines() -> list[tuple[str, str]]:
    """Name and line of each sample of the document."""
    section = DOCUMENT.read_text("utf-8").split("## One line of each")[1].split("\n## ")[0]
    return re.findall(r"^\| ([^|]+?) \| `(\{.*\})` \|$", section, re.MULTILINE)


@pytest.mark.parametrize(("name", "line"), sample_lines(), ids=[name for name, _ in sample_lines()])
def test_every_sample_line_of_the_document_is_read(name: str, line: str, tmp_path: Path, helpsteer) -> None:
    own = {"prompts": Prompt, "prompts, a dialogue": Prompt, "annotations": Annotation}
    own |= {"candidates, answers": CandidateSet, "answers, of a dialogue": CandidateSet}
    path = tmp_path / "data.jsonl"
    path.write_text(f"{line}\n")
    if name in own:
        assert len(list(read_records(path, own[name]))) == 1
        return
    Image.new("RGB", (8, 8)).save(tmp_path / "oak.png")
    assert detect(json.loads(line), "data.jsonl") == name.split("`")[1]
    taste = helpsteer.model_copy(update={"steered": ("complexity", "verbosity")})
    assert len(read(tmp_path, json.loads(line), schema=taste)) == 1


def test_every_format_has_a_sample_line() -> None:
    assert {name.split("`")[1] for name, _ in sample_lines() if "`" in name} == set(FORMATS)
