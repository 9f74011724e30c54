"""What is wrong with files and folders is said before the first call, all of it at once."""

from pathlib import Path

import pytest

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.errors import UserError
from nemo_mm_align.labeling.inputs import LabelInputs
from nemo_mm_align.labeling.jobs import LabelContext
from nemo_mm_align.labeling.judges.human.judge import HumanJudge
from nemo_mm_align.labeling.ledger import Ledger
from nemo_mm_align.labeling.outputs import check_outputs
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


def test_a_job_is_found_by_its_key(files: Files, helpsteer: AttributeSchema) -> None:
    inputs = check(files, helpsteer)
    assert [inputs.job(key).prompt.id for key in reversed(inputs.keys)] == ["p5", "p4", "p3", "p2", "p1", "p0"]
    assert inputs.job("0" * 32) is None


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
        Ledger(tmp_path / "a")
