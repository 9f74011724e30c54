"""What is wrong with files and folders is said before the first call, all of it at once."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_mm_align.core import file_state
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.input_memory import InputMemory
from nemo_mm_align.labeling.input_reader import InputReader
from nemo_mm_align.labeling.inputs import LabelInputs, Selection
from nemo_mm_align.labeling.items import LabelContext
from nemo_mm_align.labeling.judge_ledger import JudgeLedger
from nemo_mm_align.labeling.judges.human.judge import HumanJudge
from nemo_mm_align.labeling.outputs import check_outputs
from nemo_mm_align.schema.answer_provenance import ProvenanceFile, digest
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import CandidateSet, PlacedPrompt, read_records, write_records
from tests.judge_server import Files, make_files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path, 6)


def check(files: Files, schema: AttributeSchema) -> LabelInputs:
    inputs = LabelInputs(files.prompts_path, files.candidates_path)
    inputs.check(LabelContext(HumanJudge("anna"), schema, True), lambda key: False)
    return inputs


def edit(path: Path, line: int, text: bytes) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = text
    path.write_bytes(b"".join(lines))


def test_lines_that_are_no_records_hide_no_other_fault(files: Files, helpsteer: AttributeSchema) -> None:
    edit(files.prompts_path, 2, b'{"id": "p1"\n')
    edit(files.candidates_path, 1, b'{"prompt_id": "p5", "candidates": []}\n')
    edit(files.candidates_path, 3, b"\xff\n")
    (files.folder / "images/4.jpg").unlink()
    with pytest.raises(UserError) as caught:
        check(files, helpsteer)
    text = str(caught.value)
    for expected in (
        "4 faults in the input",
        f"{files.prompts_path}:2: Invalid JSON",
        f"{files.prompts_path}:5: {files.folder}/images/4.jpg: no such image",
        f"{files.candidates_path}:1: candidates: Tuple should have at least 1 item",
        f"{files.candidates_path}:3: Invalid JSON",
    ):
        assert expected in text


def test_dialogues_are_refused_and_named(files: Files, helpsteer: AttributeSchema) -> None:
    """Labelling and `annotate`, which reads its input the same way, rate single answers."""
    asked = [*files.prompts]
    asked[2] = asked[2].model_copy(update={"follow_ups": ("And now?",)})
    write_records(files.prompts_path, asked)
    answered = [*files.candidates]
    first = answered[4].candidates[0].model_copy(update={"follow_up_answers": ("so",)})
    answered[4] = answered[4].model_copy(update={"candidates": (first,)})
    write_records(files.candidates_path, answered)
    with pytest.raises(UserError) as caught:
        check(files, helpsteer)
    for line in (3, 5):
        assert f"{files.prompts_path}:{line}: prompt 'p{line - 1}' has follow_ups, and labelling is for" in str(
            caught.value
        )


def test_a_byte_order_mark_changes_nothing(files: Files, helpsteer: AttributeSchema) -> None:
    keys = check(files, helpsteer).keys
    for path in (files.prompts_path, files.candidates_path):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    inputs = check(files, helpsteer)
    assert inputs.keys == keys and [item.prompt.id for item in inputs.items()] == [f"p{number}" for number in range(6)]
    files.prompts_path.write_bytes(b"[" + files.prompts_path.read_bytes() + b"]")
    with pytest.raises(UserError, match="is a JSON list. Give a plain JSONL file, one Prompt record per line"):
        check(files, helpsteer)


def test_places_of_images_are_added_where_that_is_asked_for(files: Files, helpsteer: AttributeSchema) -> None:
    keys = check(files, helpsteer).keys
    text = files.prompts_path.read_text(encoding="utf-8")
    files.prompts_path.write_text(text.replace("<image>\\n", ""), encoding="utf-8")
    with pytest.raises(
        UserError, match="placeholders for 1 images; write one per image, or set add_image_placeholders=true"
    ):
        check(files, helpsteer)
    inputs = LabelInputs(files.prompts_path, files.candidates_path, prompt_kind=PlacedPrompt)
    inputs.check(LabelContext(HumanJudge("anna"), helpsteer, True), lambda key: False)
    assert text.count("<image>\\n") and inputs.keys == keys
    assert all(item.prompt.turns[0].content.startswith("<image>\n") for item in inputs.items() if item.prompt.images)


def test_candidates_about_another_picture_are_refused_and_edited_ones_counted(
    files: Files, helpsteer: AttributeSchema, caplog: pytest.LogCaptureFixture
) -> None:
    keys = check(files, helpsteer).keys
    candidates = list(read_records(files.candidates_path, CandidateSet))
    items = {item.prompt.id: item for item in check(files, helpsteer).items()}
    hashes = {
        name: [hashlib.sha256(path.read_bytes()).hexdigest() for path in items[name].image_paths] for name in items
    }
    noted = {digest(record): tuple(hashes[record.prompt_id]) for record in candidates}
    ProvenanceFile(files.candidates_path, noted.items()).close()
    with caplog.at_level(logging.WARNING):
        assert check(files, helpsteer).keys == keys and not caplog.records
        edited = candidates[0].model_copy(update={"candidates": candidates[0].candidates[:1]})
        write_records(files.candidates_path, [edited, *candidates[1:]])
        check(files, helpsteer)
    assert "1 lines were changed after sample.py had written them" in caplog.text
    items["p2"].image_paths[0].write_bytes(items["p3"].image_paths[0].read_bytes())
    with pytest.raises(
        UserError, match=f"1 faults(?s:.*){files.prompts_path}:3: its candidates are about another picture"
    ):
        check(files, helpsteer)


def test_two_files_in_each_others_place_are_one_message(files: Files, helpsteer: AttributeSchema) -> None:
    content = files.prompts_path.read_bytes()
    files.prompts_path.write_bytes(files.candidates_path.read_bytes())
    with pytest.raises(
        UserError, match=r"prompts.jsonl: no line is a Prompt record; is it the right file\? The first: "
    ):
        check(files, helpsteer)
    files.candidates_path.write_bytes(content)
    with pytest.raises(UserError, match=r"candidates.jsonl: no line is a CandidateSet record"):
        check(files, helpsteer)
    with pytest.raises(UserError, match="a folder. Give the path of a JSONL file with CandidateSet records"):
        LabelInputs(files.prompts_path, files.folder)


def test_an_item_is_found_by_its_key(files: Files, helpsteer: AttributeSchema) -> None:
    inputs = check(files, helpsteer)
    assert [inputs.item(key).prompt.id for key in reversed(inputs.keys)] == ["p5", "p4", "p3", "p2", "p1", "p0"]
    assert inputs.item("0" * 32) is None


def test_files_that_cannot_be_written_are_named_before_any_call(tmp_path: Path) -> None:
    check_outputs([tmp_path / "a" / "b" / "out.jsonl"])
    assert (tmp_path / "a" / "b").is_dir()
    with pytest.raises(UserError, match="a folder stands where a file is to be written"):
        check_outputs([tmp_path / "a"])
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "out.jsonl", Path("/proc/none/out.jsonl")):
        with pytest.raises(UserError, match=f"{path}: its folder cannot be made"):
            check_outputs([path])
    with pytest.raises(UserError, match="no file can be written in /proc/sys"):  # read-only, for root too
        check_outputs([Path("/proc/sys/out.jsonl")])
    with pytest.raises(UserError, match="the ledger cannot be opened"):
        JudgeLedger(tmp_path / "a")


def remembering(files: Files, schema: AttributeSchema, read_only: bool = False, **more: object) -> list[str]:
    """The keys as a run with a ledger finds them; nothing is labelled yet."""
    inputs = LabelInputs(
        files.prompts_path, files.candidates_path, memory=InputMemory(files.folder / "a.jsonl", read_only), **more
    )
    inputs.check(LabelContext(HumanJudge("anna"), schema, True), lambda key: False)
    assert [item.key for item in inputs.items()] == inputs.keys
    assert [item.candidates.prompt_id for item in inputs.items()] == [item.prompt.id for item in inputs.items()]
    return inputs.keys


def test_what_was_checked_is_not_read_again_until_it_changes(
    files: Files, helpsteer: AttributeSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings: list[InputReader] = []
    read = InputReader.read
    monkeypatch.setattr(InputReader, "read", lambda self, choose: readings.append(self) or read(self, choose))

    def found(is_read: bool, schema: AttributeSchema = helpsteer, **more: object) -> list[str]:
        readings.clear()
        keys = remembering(files, schema, **more)
        assert len(readings) == is_read and keys == check(files, schema).keys
        return keys

    found(True), found(True)  # files that changed a moment ago are not trusted
    monkeypatch.setattr(file_state, "SETTLED_S", -60.0)
    found(True, read_only=True)
    assert not (files.folder / "a.inputs").exists()
    keys = found(True)
    assert found(False) == keys == found(False, read_only=True)
    for path in (files.prompts_path, files.candidates_path):
        path.write_bytes(path.read_bytes())  # the same content, another time
        assert found(True) == keys == found(False)
    image = files.folder / files.prompts[3].images[0]
    image.write_bytes((files.folder / files.prompts[0].images[0]).read_bytes())
    changed = found(True)
    assert [index for index in range(6) if keys[index] != changed[index]] == [3] and found(False) == changed
    assert found(True, selection=Selection(sample=6)) == changed  # another selection, though of the same prompts
    assert not set(found(True, helpsteer.model_copy(update={"attributes": helpsteer.attributes[:3]}))) & set(changed)


def test_an_image_that_breaks_after_the_check_is_named(
    files: Files, helpsteer: AttributeSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_state, "SETTLED_S", -60.0)
    remembering(files, helpsteer)
    (files.folder / files.prompts[2].images[0]).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"prompts.jsonl:3: .*images/2.webp: not an image"):
        remembering(files, helpsteer)
    (files.folder / files.prompts[2].images[0]).unlink()
    with pytest.raises(UserError, match=r"prompts.jsonl:3: .*images/2.webp: no such image"):
        remembering(files, helpsteer)


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-20], lambda text: text + "x 1 2 3 4\n", lambda text: "\x00", str.upper]
)
def test_a_damaged_memory_is_not_believed(
    files: Files, helpsteer: AttributeSchema, monkeypatch: pytest.MonkeyPatch, damage: Callable[[str], str]
) -> None:
    monkeypatch.setattr(file_state, "SETTLED_S", -60.0)
    keys = remembering(files, helpsteer)
    memory = files.folder / "a.inputs"
    memory.write_text(damage(memory.read_text()))
    assert remembering(files, helpsteer) == keys


def test_a_memory_that_cannot_be_written_stops_nothing(
    files: Files, helpsteer: AttributeSchema, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file_state, "SETTLED_S", -60.0)
    (files.folder / "a.inputs").mkdir()
    assert len(remembering(files, helpsteer)) == 6
    assert "a.inputs cannot be written" in caplog.text
