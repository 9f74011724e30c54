"""Where commands write: links are written through, devices, FIFOs and sockets are never replaced, folders are made or named."""

import os
import socket
import stat
from pathlib import Path

import pytest

from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.outputs import beside, check_folder, file_to_write, folder_to_write


def kind(path: Path) -> int:
    return stat.S_IFMT(path.lstat().st_mode)


def make(path: Path, what: str) -> None:
    if what == "FIFO":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))


@pytest.mark.parametrize("what", ["FIFO", "folder", "socket"])
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_is_refused_and_stays(tmp_path: Path, what: str, linked: bool) -> None:
    path = tmp_path / "out.jsonl"
    make(path, what)
    before = kind(path)
    if linked:
        (tmp_path / "link").symlink_to(path)
    asked = tmp_path / "link" if linked else path
    with pytest.raises(UserError, match=f"{asked}: a {what}.* stands where a file is to be written"):
        write_text(asked, "text")
    assert kind(path) == before and sorted(tmp_path.iterdir()) == sorted({path, asked})


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_file_stays_and_the_file_behind_it_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store/v1.jsonl", tmp_path / "latest.jsonl"
    if there:
        target.write_text("old")
    link.symlink_to("store/v1.jsonl")
    write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new" and list(target.parent.iterdir()) == [target]


def test_links_in_a_circle_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UserError, match=r"a: cannot be written \(Too many levels of symbolic links\)"):
        file_to_write(tmp_path / "a")


@pytest.mark.parametrize("place", [file_to_write, folder_to_write])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path, place) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/a/b: its folder cannot be made \(Not a directory\). Give another path."):
        place(tmp_path / "file/a/b")
    with pytest.raises(UserError, match="a file stands where a folder is to be made"):
        folder_to_write(tmp_path / "file")


def test_a_folder_that_cannot_be_made_or_written_is_named() -> None:
    with pytest.raises(UserError, match="/proc/here/run: its folder cannot be made"):
        folder_to_write("/proc/here/run")
    with pytest.raises(UserError, match="/proc/sys: no file can be written in /proc/sys"):  # read-only, for root too
        folder_to_write("/proc/sys")


def test_a_folder_is_checked_without_being_made(tmp_path: Path) -> None:
    check_folder(tmp_path / "a/b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for path, words in (
        ("file", "a file stands"),
        ("file/a", "no file can be written in"),
        ("/proc/sys/a", "read-only"),
    ):
        with pytest.raises(UserError, match=words):
            check_folder(tmp_path / path)


def test_names_of_any_length_have_companions(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)  # 254 bytes of the 255 that a name may have
    write_text(path, "text")
    assert path.read_text() == "text" and len(os.fsencode(beside(path, "lock").name)) <= 255
    with pytest.raises(UserError, match="File name too long"):
        file_to_write(tmp_path / ("a" * 256))
