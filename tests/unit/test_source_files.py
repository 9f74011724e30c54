"""Training data as people have them: files of any name, broken values, images inside; in bounded memory."""

import base64
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets import faults, json_records
from nemo_mm_align.datasets.sources import SourceSettings, read_examples

RECORD = {
    "id": "1",
    "image": "oak.png",
    "conversations": [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": "an oak"}],
}
TEXT = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
PAIR = {"image": "oak.png", "question": "<image>\nWhich?", "chosen": "an oak", "rejected": "an elm"}
LINES = "".join(json.dumps(RECORD | {"id": str(number)}) + "\n" for number in range(3)).encode()
LIST = b"[" + b",\n".join(LINES.splitlines()) + b"]\n"
BOM = b"\xef\xbb\xbf"


def read(path, **settings):
    return read_examples(SourceSettings(path=str(path), image_cache=str(Path(path).parent / "cache"), **settings))


def written(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.fixture
def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (0, 255, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet", "a.txt", "a", "a.json.gz", "a.csv"])
@pytest.mark.parametrize(
    "data", [LINES, LIST, BOM + LINES, BOM + LIST, b"\n\n" + LIST, gzip.compress(LINES), gzip.compress(LIST)]
)
def test_json_is_known_by_its_content(tmp_path, name, data):
    assert [example.id for example in read(written(tmp_path / name, data))] == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["a.parquet", "a.json", "a"])
def test_parquet_is_known_by_its_content(tmp_path, monkeypatch, name):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    datasets.Dataset.from_list([TEXT] * 2).to_parquet(str(tmp_path / "whole"))
    assert len(read((tmp_path / "whole").rename(tmp_path / name))) == 2


def test_csv_begins_with_a_byte_order_mark_or_without(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    table = b"question,chosen,rejected\nWhich?,an oak,an elm\n"
    for number, start in enumerate((b"", BOM)):
        (pair,) = read(written(tmp_path / f"{number}.csv", start + table))
        assert (pair.turns[0].content, pair.chosen) == ("Which?", "an oak")


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.txt", "once upon a time", "holds neither JSON nor JSONL"),
        ("a.json", LINES.decode().encode("utf-16"), "is UTF-16 text. Save it as UTF-8"),
        ("a.jsonl", b"PK\x03\x04rest", "is a zip archive. Unpack it"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfdrest", "is zstandard-compressed"),
        ("a.json", "version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a Git LFS pointer"),
        ("a.json", json.dumps(RECORD, indent=1), "holds one JSON object over several lines"),
        ("a.json", LIST[:-9], "not a JSON list \\(record 3, line 3: .*Check the end of the file; is it complete"),
        ("a.json", b"[1 2]", "record 2, line 1: a comma or ] is missing"),
        ("a.json", LIST + b"{}", "record 4, line 4: text behind the list"),
        ("a.json", b"[" * 60_000, "record 1, line 1: nested too deeply"),
        ("a.jsonl.gz", gzip.compress(LINES * 9000)[:-900], "cannot be read"),
        ("a.parquet", b"PAR1 and no more", "cannot be opened as a dataset"),
    ],
)
def test_other_files_are_refused_with_a_sentence(tmp_path, name, data, expected):
    with pytest.raises(UserError, match=f"{name}: .*{expected}") as caught:
        read(written(tmp_path / name, data))
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
def test_a_list_is_read_whatever_the_blocks_it_comes_in(tmp_path, monkeypatch, block):
    monkeypatch.setattr(json_records, "BLOCK", block)
    items = [{"é": "ü€😀" * 5}, {"a": [1, {"b": '"],['}]}, {}, {"n": -12.5e3, "t": None}]
    for indent in (None, 1):
        path = written(tmp_path / "a.json", BOM + json.dumps(items, indent=indent, ensure_ascii=False).encode())
        assert list(json_records.json_items(path)) == list(enumerate(items, start=1))
    assert list(json_records.json_items(written(tmp_path / "a.json", " [ ] "))) == []


DEEP = '{"id": "d", "conversations": ' + "[" * 50_000 + "]" * 50_000 + "}"
DEEP_METADATA = json.dumps(TEXT)[:-1] + ', "id": "m", "meta": ' + "[" * 900 + "]" * 900 + "}"


@pytest.mark.parametrize(
    ("line", "kind", "problem"),
    [
        (DEEP, "json", "nested too deeply"),
        (json.dumps(PAIR).replace('"an oak"', "1" * 5000), "json", "not a JSON object"),
        (json.dumps(RECORD | {"id": "\ud800"}), "text", "half of a character"),
        (json.dumps(RECORD | {"id": ["a"] * 9000}), "field", "id is no text and no number"),
        (json.dumps(RECORD | {"image": "\udfff.png"}), "text", "half of a character"),
        (json.dumps(TEXT | {"conversations": "x" * 10**6}), "field", "conversations is str 'xxx"),
        (json.dumps(TEXT | {"conversations": [[0] * 10**5]}), "field", "conversations[0] is list "),
        ('{"id": "2", "id": "3", "conversations": []}', "key_twice", "id stands twice in an object"),
        (json.dumps(TEXT)[:-3] + ', "value": "b"}]}', "key_twice", "value stands twice"),
        (json.dumps(RECORD | {"image": "x" * 10**6}), "image_path", "is no path; store the image as a file"),
        (json.dumps(RECORD | {"image": "https://example.org/oak.png"}), "image_path", "is no path"),
    ],
)
def test_odd_values_are_faults_of_their_line(tmp_path, line, kind, problem):
    path = written(tmp_path / "a.jsonl", LINES + line.encode() + b"\n")
    with pytest.raises(UserError) as caught:
        read(path, fault_report=str(tmp_path / "faults.jsonl"))
    (fault,) = map(json.loads, (tmp_path / "faults.jsonl").read_text(encoding="utf-8").splitlines())
    assert (fault["where"], fault["kind"]) == ("line 4", kind) and problem in fault["problem"]
    assert len(str(caught.value)) < 2500 and str(caught.value).encode("utf-8")
    assert len(read(path, on_fault="drop")) == 3


@pytest.mark.parametrize("key", ["ref_rej_logp", "chosen_score"])
def test_a_number_beyond_any_float_is_a_fault_of_its_line(tmp_path, key):
    path = written(
        tmp_path / "a.jsonl", json.dumps(PAIR) + "\n" + json.dumps(PAIR | {"ref_win_logp": -1, key: -(10**400)})
    )
    with pytest.raises(UserError, match=f"1 of 2 records(?s:.*)line 2 .*{key} is int '-1000.*must be a finite number"):
        read(path)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), "4" * 10**6])
def test_an_attribute_beyond_its_range_is_a_fault_however_far(tmp_path, helpsteer, value):
    attributes = dict.fromkeys(helpsteer.names, 1) | {"verbosity": value}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = written(tmp_path / "a.jsonl", json.dumps({"id": "1", "turns": turns, "attributes": attributes}))
    with pytest.raises(UserError, match="line 1 .*verbosity=.* is (outside 0 to 4|not a number)") as caught:
        read_examples(SourceSettings(path=str(path)), helpsteer)
    assert len(str(caught.value)) < 2500


@pytest.mark.parametrize("kind", [[], {}, ["image"], 7, None])
def test_a_part_of_another_type_is_a_fault(tmp_path, kind):
    messages = [{"role": "user", "content": [{"type": kind, "text": "q"}]}, {"role": "assistant", "content": "a"}]
    with pytest.raises(UserError, match="line 1 .*parts of"):
        read(written(tmp_path / "a.jsonl", json.dumps({"messages": messages})))


def test_metadata_may_be_nested(tmp_path):
    assert len(read(written(tmp_path / "a.jsonl", DEEP_METADATA))) == 1


def test_a_long_line_is_one_fault_and_the_next_ones_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(json_records, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(json_records, "BLOCK", 64)
    path = written(tmp_path / "a.jsonl", LINES + b"x" * 5000 + b"\n" + LINES)
    with pytest.raises(UserError, match="1 of 7 records refused.*\n.*size\n  line 4 .*longer than 1,000 bytes"):
        read(path)
    assert len(read(path, on_fault="drop")) == 6


def url(data: bytes, kind: str = "data:image/png;base64,") -> str:
    return kind + base64.b64encode(data).decode()


def test_an_image_in_a_data_url_becomes_a_file(tmp_path, png):
    urls = [url(png), url(png, "DATA:;Base64,"), url(png).replace("+", "%2B")]
    examples = read(
        written(tmp_path / "a.json", json.dumps([RECORD | {"image": value} for value in urls])), image_root="elsewhere"
    )
    (file,) = (tmp_path / "cache").iterdir()
    assert file.read_bytes() == png and {example.images for example in examples} == {(str(file),)}


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (url(b"no picture" * 9000), r"image is a data URL \(data:image/png, 120,022 characters\) that holds no image"),
        ("data:image/png;base64,!" + "A" * 9000, r"9,023 characters\) that is not base64"),
        ("data:image/png," + "A" * 9000, "without ;base64"),
        ("data:" + "A" * 9000, r"\(data:, 9,005 characters\) without"),
    ],
)
def test_a_bad_data_url_is_named_and_never_printed(tmp_path, image, problem):
    path = written(tmp_path / "a.jsonl", json.dumps(RECORD | {"image": image}))
    with pytest.raises(UserError, match=f"line 1 .*{problem}") as caught:
        read(path)
    assert image[100:200] not in str(caught.value) and "Remedy" in str(caught.value)
    assert not list((tmp_path / "cache").glob("*"))


def image_table(folder, monkeypatch, images, name="images"):
    """A Parquet file whose rows have these values in an image column."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets_cache")
    struct = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    texts = [
        "<image>\n" if any((item or {}).get("bytes") or (item or {}).get("path") for item in row) else ""
        for row in images
    ]
    chats = [[{"from": "human", "value": f"{text}q"}, {"from": "gpt", "value": "a"}] for text in texts]
    values = images if name == "images" else [row[0] for row in images]
    column = pyarrow.array(values, type=pyarrow.list_(struct) if name == "images" else struct)
    pyarrow.parquet.write_table(pyarrow.table({name: column, "conversations": chats}), folder / "a.parquet")
    return folder / "a.parquet"


@pytest.mark.parametrize("name", ["image", "images"])
def test_an_image_struct_without_bytes_and_path_is_no_image(tmp_path, monkeypatch, png, name):
    rows = [
        [{"bytes": png, "path": None}],
        [{"bytes": None, "path": None}],
        [None],
        [{"bytes": None, "path": "oak.png"}],
    ]
    examples = read(image_table(tmp_path, monkeypatch, rows, name))
    assert [len(example.images) for example in examples] == [1, 0, 0, 1]
    assert examples[3].images == (str(tmp_path / "oak.png"),)


@pytest.mark.parametrize("path", ["/etc/hostname", "../outside.png", "link/oak.png"])
def test_the_path_of_an_image_struct_does_not_leave_image_root(tmp_path, monkeypatch, png, path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/link").symlink_to("/etc")
    source = image_table(tmp_path, monkeypatch, [[{"bytes": None, "path": path}], [{"bytes": png, "path": path}]])
    with pytest.raises(UserError, match="1 of 2 records refused(?s:.*)image_root"):
        read(source, image_root=str(tmp_path / "inside"))


def test_faults_without_end_are_counted_and_the_first_ones_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "KEPT_FAULTS", 3)
    path = written(tmp_path / "a.jsonl", LINES + b"x\n" * 8 + json.dumps(RECORD | {"video": "a.mp4"}).encode())
    with pytest.raises(UserError, match=r"9 of 12 records refused, 9 faults:\n +8 x json\n +1 x unread_key") as caught:
        read(path, fault_report=str(tmp_path / "faults.jsonl"))
    assert "line 12 " in str(caught.value)
    rows = [json.loads(line) for line in (tmp_path / "faults.jsonl").read_text().splitlines()]
    assert [row.get("where") for row in rows] == ["line 4", "line 5", "line 6", "line 12", None]
    assert rows[-1]["left_out"] == 5


RLAIF = {
    "ds_name": "rlaif", "image": {"bytes": b"", "path": "0.jpg"}, "question": "Which tree?", "chosen": "an oak",
    "rejected": "an elm", "origin_dataset": "trees", "origin_split": '{"model": "m"}', "idx": 7, "image_path": "x/0.jpg",
}  # fmt: skip
ONE_VISION = RECORD | {"data_source": "trees", "model": "", "width": 20, "height": 30}
HELPFUL = {
    "system": "", "mask": "User", "type": "VALUE_TO_TEXT", "dataset": "trees",
    "conversations": [{"from": "User", "value": "q", "label": None}, {"from": "Assistant", "value": "a", "label": None}],
}  # fmt: skip


def chat(*answers: str) -> dict:
    """A record as a column of chat messages gives it: every part has every key."""
    parts = [{"type": "image", "index": 0, "text": None}, {"type": "text", "index": None, "text": "Which tree?"}]
    said = [[{"type": "text", "index": None, "text": text}] for text in answers]
    asked = {"role": "user", "content": parts}
    messages = [{"role": "assistant", "content": content} for content in said]
    if len(answers) == 1:
        return {"messages": [asked, *messages]}
    return {"prompt": [asked], "chosen": messages[:1], "rejected": messages[1:], "score_chosen": 2, "score_rejected": 1}


@pytest.mark.parametrize("record", [RLAIF, ONE_VISION, HELPFUL, chat("an oak"), chat("an oak", "an elm")])
def test_records_shaped_as_public_data_open_without_a_word(tmp_path, monkeypatch, png, caplog, record):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    row = dict(record)
    if "image" in row or "conversations" not in row:
        row = {key: value for key, value in row.items() if key != "image"} | {"image": {"bytes": png, "path": "0.jpg"}}
    table = datasets.Dataset.from_list([row])
    table.to_parquet(str(tmp_path / "train.parquet"))
    (example,) = read(tmp_path / "train.parquet", add_image_placeholders="question" in record)
    assert len(example.images) == ("image" in row) and not [r for r in caplog.records if r.name.startswith("nemo")]


MANY_IMAGES = """
import base64, json, resource, sys
from pathlib import Path
from nemo_mm_align.datasets.sources import SourceSettings, read_examples
folder, record = Path(sys.argv[1]), json.loads(sys.argv[2])
header = b"P6\\n1000 1000\\n255\\n"
for name, start, between, end in (("list.json", "[", ",", "]"), ("lines.jsonl", "", "\\n", "\\n")):
    with (folder / name).open("w") as file:
        for number in range(40):
            data = header + bytes([number]) * 3_000_000
            image = "data:;base64," + base64.b64encode(data).decode()
            file.write((between if number else start) + json.dumps(record | {"image": image}))
        file.write(end)
with (folder / "endless.jsonl").open("wb") as file:
    file.write(json.dumps(record).encode() + b'\\n{"id": "')
    file.truncate(1 << 30)
base = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (base + (300 << 20), base + (300 << 20)))  # the files have 160, 160 and 1024 MiB
for name, count in (("list.json", 40), ("lines.jsonl", 40), ("endless.jsonl", 1)):
    settings = SourceSettings(path=str(folder / name), image_cache=str(folder / "cache"), on_fault="drop")
    assert len(read_examples(settings)) == count, name
"""


@pytest.mark.slow
def test_memory_holds_one_record_and_not_the_file(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MANY_IMAGES, str(tmp_path), json.dumps(RECORD)],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
