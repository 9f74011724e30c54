import gzip
import json

import pytest

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.schema.examples import TrainingExample
from nemo_mm_align.schema.image_paths import resolve_image
from nemo_mm_align.schema.records import (
    CandidateSet,
    Prompt,
    RecordAppender,
    Turn,
    parse_line,
    read_records,
    write_records,
)

LINE = {"id": "a", "images": ["cat.png"], "turns": [{"role": "user", "content": "<image>\nWhat is it?"}]}
ASSISTANT = {"role": "assistant", "content": "A cat."}


def prompt(number: int) -> Prompt:
    turns = (Turn(role="user", content=f"Question {number} é\u2028?"),)
    return Prompt(id=str(number), turns=turns, metadata={"n": number})


def write_lines(path, *lines):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


def test_what_is_written_is_read(tmp_path):
    prompts = [prompt(number) for number in range(3)]
    assert write_records(tmp_path / "new" / "prompts.jsonl", prompts) == 3
    assert list(read_records(tmp_path / "new" / "prompts.jsonl", Prompt)) == prompts
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["prompts.jsonl"]


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "prompts.jsonl"
    write_records(path, [prompt(0)])

    def broken():
        yield prompt(1)
        raise RuntimeError("source failed")

    with pytest.raises(RuntimeError):
        write_records(path, broken())
    assert [record.id for record in read_records(path, Prompt)] == ["0"]
    assert [file.name for file in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_blank_lines_are_skipped(tmp_path):
    path = write_lines(tmp_path / "prompts.jsonl", LINE, b"", b"   ", {**LINE, "id": "b"})
    assert [record.id for record in read_records(path, Prompt)] == ["a", "b"]


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = write_lines(tmp_path / "prompts.jsonl", b"\xef\xbb\xbf" + json.dumps(LINE).encode(), {**LINE, "id": "b"})
    assert [record.id for record in read_records(path, Prompt)] == ["a", "b"]
    text = json.dumps(LINE)
    assert parse_line(Prompt, "\ufeff" + text, path, 1) == parse_line(Prompt, text.encode(), path, 1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (json.dumps([LINE]).encode(), "is a JSON list. Give a plain JSONL file, one Prompt record per line"),
        (gzip.compress(json.dumps(LINE).encode()), "is gzip-compressed. Give a plain JSONL file"),
        (b"PAR1...", "is a parquet file"),
        (json.dumps(LINE).encode("utf-16"), "is UTF-16 text. Save it as UTF-8"),
    ],
)
def test_other_files_than_jsonl_are_named(tmp_path, data, expected):
    (tmp_path / "prompts.jsonl").write_bytes(data)
    with pytest.raises(UserError, match=f"prompts.jsonl: {expected}"):
        list(read_records(tmp_path / "prompts.jsonl", Prompt))


@pytest.mark.parametrize("image", ["data:image/png;base64," + "A" * 90_000, "x" * 90_000, "https://example.org/a.png"])
def test_what_is_no_path_is_said_shortly(tmp_path, image):
    with pytest.raises(UserError, match="is no path; store the image as a file") as caught:
        resolve_image(image, tmp_path / "prompts.jsonl")
    assert len(str(caught.value)) < 200


FAULTS = {
    "torn": (b'{"id": "b", "tur', "EOF while parsing"),
    "not JSON": (b"hello", "Invalid JSON"),
    "not an object": (b"[1, 2]", "valid dictionary|object"),
    "not UTF-8": (b'{"id": "\xff\xfe"}', "invalid unicode"),
    "unknown key": ({**LINE, "image": "cat.png"}, "image: Extra inputs are not permitted"),
    "missing key": ({"id": "b"}, "turns: Field required"),
    "wrong type": ({**LINE, "id": 7}, "id: Input should be a valid string"),
    "wrong role": ({**LINE, "turns": [{"role": "bot", "content": ""}]}, "turns.0.role"),
    "no turns": ({**LINE, "turns": []}, "must alternate"),
    "ends with the assistant": ({**LINE, "turns": [*LINE["turns"], ASSISTANT]}, "end with user"),
    "user twice": ({**LINE, "turns": LINE["turns"] * 2}, r"must alternate.*'user', 'user'"),
    "more placeholders than images": ({**LINE, "images": []}, "1 <image> placeholders for 0 images"),
    "more images than placeholders": ({**LINE, "images": ["a", "b"]}, "1 <image> placeholders for 2 images"),
    "placeholder in an answer": (
        {
            **LINE,
            "turns": [*LINE["turns"], {"role": "assistant", "content": "<image>"}, {"role": "user", "content": ""}],
        },
        "outside a user turn",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_names_file_line_and_remedy(tmp_path, fault):
    line, message = FAULTS[fault]
    path = write_lines(tmp_path / "prompts.jsonl", LINE, line)
    records = read_records(path, Prompt)
    assert next(records).id == "a"
    with pytest.raises(RecordError, match=message) as caught:
        next(records)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert "Remedy: each line must be a JSON object of a Prompt record" in str(caught.value)


def test_training_example_ends_with_the_assistant():
    turns = (Turn(role="system", content="Be brief."), Turn(role="user", content="?"), Turn(**ASSISTANT))
    assert TrainingExample(id="a", turns=turns).turns[-1].content == "A cat."
    with pytest.raises(ValueError, match="end with assistant"):
        TrainingExample(id="a", turns=turns[:2])


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        list(read_records(tmp_path / "none.jsonl", Prompt))
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match=r"empty\.jsonl: the file is empty"):
        list(read_records(tmp_path / "empty.jsonl", Prompt))


@pytest.mark.parametrize("torn", [b'{"id": "1", "turns": [{"ro', b"x" * 200_000])
def test_appender_removes_a_torn_last_line(tmp_path, torn):
    path = tmp_path / "prompts.jsonl"
    with RecordAppender(path) as appender:
        appender.append(prompt(0))
    with path.open("ab") as file:
        file.write(torn)
    with RecordAppender(path) as appender:
        appender.append(prompt(1))
    assert [record.id for record in read_records(path, Prompt)] == ["0", "1"]


def test_appender_on_nothing_but_a_torn_line(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'{"id"')
    with RecordAppender(path) as appender:
        appender.append(prompt(0))
    assert [record.id for record in read_records(path, Prompt)] == ["0"]


def test_each_appended_line_is_on_disk_at_once(tmp_path):
    with RecordAppender(tmp_path / "prompts.jsonl") as appender:
        appender.append(prompt(0))
        assert (tmp_path / "prompts.jsonl").read_bytes().endswith(b"}\n")


def test_image_paths_are_relative_to_the_records_file(tmp_path):
    assert resolve_image("a/cat.png", tmp_path / "prompts.jsonl") == tmp_path / "a" / "cat.png"
    assert resolve_image("cat.png", tmp_path / "prompts.jsonl", "/images").as_posix() == "/images/cat.png"
    assert resolve_image("/cat.png", tmp_path / "prompts.jsonl").as_posix() == "/cat.png"


@pytest.mark.parametrize(
    ("path", "root"), [("../cat.png", None), ("a/../../cat.png", "/images"), ("/cat.png", "/images")]
)
def test_image_paths_stay_inside_their_folder(tmp_path, path, root):
    with pytest.raises(UserError, match="image path"):
        resolve_image(path, tmp_path / "prompts.jsonl", root)


def test_nothing_outside_an_image_root_is_reached_through_links(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    for folder in (root / "sub", outside):
        (folder / "cat.png").write_bytes(b"")
    (root / "file.png").symlink_to(outside / "cat.png")
    (root / "folder").symlink_to(outside)
    (root / "up").symlink_to("..")
    (root / "inside").symlink_to(root / "sub")
    (root / "loop").symlink_to("loop")
    (tmp_path / "alias").symlink_to(root)
    for path in ("file.png", "folder/cat.png", "up/outside/cat.png", "inside/../folder/cat.png"):
        with pytest.raises(UserError, match="leaves image_root .* through a symbolic link"):
            resolve_image(path, tmp_path / "prompts.jsonl", root)
        resolve_image(path, root / "prompts.jsonl")  # a trusted folder may be put together from links
    for path in ("inside/cat.png", "sub/cat.png", "up/root/sub/cat.png"):
        assert resolve_image(path, tmp_path / "prompts.jsonl", root) == root / path
        assert resolve_image(path, tmp_path / "prompts.jsonl", tmp_path / "alias").read_bytes() == b""
    assert resolve_image("loop/cat.png", tmp_path / "prompts.jsonl", root) == root / "loop/cat.png"  # fails when read


def test_lengths_of_follow_ups_are_of_all_or_none(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"prompt_id": "p", "candidates": [{"text": "a", "follow_up_answers": ["b", "c"], "follow_up_num_tokens": [1]}]}'
    )
    with pytest.raises(RecordError, match=r"follow_up_num_tokens is of 1 answers, follow_up_answers holds 2"):
        list(read_records(path, CandidateSet))
