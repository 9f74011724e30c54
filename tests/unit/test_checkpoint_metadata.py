"""The format version of a checkpoint: earlier ones open, later ones are refused and never passed over, no key is unread."""

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.parallel.checkpoint_folder import checkpoints_of, latest_checkpoint
from nemo_mm_align.parallel.checkpoint_metadata import FORMAT_VERSION, METADATA_FILE, read_metadata
from nemo_mm_align.training.resume import checkpoint_to_resume
from tests.checkpoint_files import metadata_of, write_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoints", metadata_of(3))


def change(folder: Path, **values: Any) -> None:
    path = folder / METADATA_FILE
    changed = json.loads(path.read_text()) | values
    path.write_text(json.dumps(changed))


def test_a_file_of_version_1_opens_as_one_of_now(folder: Path) -> None:
    now = read_metadata(folder)
    assert now.format_version == 2 and now.head is None, "written as earlier releases read it"
    change(folder, format_version=1)
    assert read_metadata(folder) == now
    path = folder / METADATA_FILE
    values = json.loads(path.read_text())
    del values["format_version"]  # files could leave it out before there was a second
    path.write_text(json.dumps(values))
    assert read_metadata(folder) == now


@pytest.mark.parametrize("versions", [{}, {"nemo_mm_align": "9.1"}])
def test_a_later_version_is_refused_with_both_versions_and_the_remedy(folder: Path, versions: dict[str, str]) -> None:
    change(folder, format_version=FORMAT_VERSION + 1, versions=versions, beyond={"outputs": 5})
    with pytest.raises(UserError) as caught:
        read_metadata(folder)
    remedy = "open it with a later one" + (" (nemo_mm_align 9.1 wrote it)." if versions else ".")
    expected = f"{folder / METADATA_FILE}: is of format version 4, this nemo_mm_align reads up to 3: {remedy}"
    assert str(caught.value) == expected


def test_a_later_version_is_not_damage_and_is_not_passed_over(folder: Path) -> None:
    """Going on from an older checkpoint beside it would lose the steps between."""
    run = folder.parent
    newest = write_checkpoint(run, metadata_of(4))
    change(newest, format_version=FORMAT_VERSION + 1)
    for look in (lambda: latest_checkpoint(run), lambda: checkpoint_to_resume(run, resume=True)):
        with pytest.raises(UserError, match="step_00000004/metadata.json: is of format version 4"):
            look()
    assert checkpoints_of(run) == [folder], "what counts for checkpoint.keep, and may be removed by it"
    write_checkpoint(run, metadata_of(5))
    assert latest_checkpoint(run) == run / "step_00000005"


@pytest.mark.parametrize("version", [1, 2])
def test_an_unknown_key_is_refused_by_name(folder: Path, version: int) -> None:
    change(folder, format_version=version, head={"outputs": 5})
    with pytest.raises(
        UserError, match=rf"metadata.json: cannot be read: head: no key of format version {version}\. Restore"
    ):
        read_metadata(folder)
    change(folder, format_version=FORMAT_VERSION, head=None, beyond=1)
    with pytest.raises(UserError, match=r"metadata.json: cannot be read: beyond: no key of format version 3\. Restore"):
        read_metadata(folder)


def test_a_head_makes_a_file_of_version_3(tmp_path: Path) -> None:
    head = {"outputs": ["helpfulness"], "pooling": "last"}
    metadata = metadata_of(7).model_copy(update={"head": head})
    folder = write_checkpoint(tmp_path, type(metadata).model_validate(metadata.model_dump()))
    assert json.loads((folder / METADATA_FILE).read_text())["format_version"] == 3
    assert read_metadata(folder).head == head


@pytest.mark.parametrize(("version", "shown"), [(0, "0"), ("2", "'2'"), (True, "True"), (1.5, "1.5"), ([2], r"\[2\]")])
def test_what_is_no_version_is_refused(folder: Path, version: Any, shown: str) -> None:
    change(folder, format_version=version)
    with pytest.raises(UserError, match=f"format_version={shown} is none"):
        read_metadata(folder)


@pytest.mark.parametrize(
    ("text", "message"), [("[1]", "not a JSON object"), ("{}", "step: Field required"), ("{", "Expecting")]
)
def test_what_is_no_metadata_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / METADATA_FILE).write_text(text)
    with pytest.raises(UserError, match=f"metadata.json: cannot be read: .*{message}"):
        read_metadata(folder)
