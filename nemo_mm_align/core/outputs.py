"""Places that a command writes to, looked at before the work: what is wrong there is a sentence, not a lost result.

A path may be a link to a file, or to where one shall be made: the file behind it is written, the link stays. Devices, FIFOs
and sockets are refused: a file that is renamed into their place would take it from all other programs.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.folders import can_write, nearest_existing

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO (named pipe)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def file_to_write(path: str | Path) -> Path:
    """Return where a file lies that is to be written, links followed; its folder is made.

    Raises:
        UserError: something other than a file stands there, or its folder cannot be made or written to.
    """
    mode = _mode(Path(path))
    if mode is not None and not stat.S_ISREG(mode):
        raise UserError(f"{path}: {_kind(mode)} stands where a file is to be written. Give the path of a file.")
    place = Path(os.path.realpath(path))
    _make_folder(place.parent, path)
    return place


def folder_to_write(path: str | Path) -> Path:
    """Return where a folder lies in which files are to be written, links followed; it is made.

    Raises:
        UserError: something other than a folder stands there, or it cannot be made or written to.
    """
    _refuse_other_than_folder(Path(path))
    place = Path(os.path.realpath(path))
    _make_folder(place, path)
    return place


def check_folder(path: str | Path) -> None:
    """Raise `UserError` where `folder_to_write` would; nothing is made."""
    _refuse_other_than_folder(Path(path))
    place = Path(os.path.realpath(path))
    if not can_write(place):
        raise UserError(_unwritable(path, nearest_existing(place)))


def folder_to_make(path: str | Path) -> Path:
    """Return the path of a folder that takes its name when it is complete; the folder above it is made.

    Raises:
        UserError: something other than an empty folder stands there, a link even to nothing, or the folder above cannot be
            made or written to.
    """
    path = Path(path)
    if path.is_symlink():
        raise UserError(
            f"{path}: a link stands where a folder is to be made. Give the path that it leads to, or another."
        )
    _refuse_other_than_folder(path)
    _make_folder(Path(os.path.realpath(path)).parent, path)
    return path


def beside(path: Path, ending: str) -> Path:
    """Return the hidden companion ``.<name>.<ending>`` of a file or folder; a name near the longest allowed is cut."""
    longest = os.pathconf(path.parent, "PC_NAME_MAX") - len(ending) - 2 if path.parent.is_dir() else 200
    name = os.fsencode(path.name)[: max(longest, 1)].decode(errors="ignore")
    return path.with_name(f".{name}.{ending}")


def _mode(path: Path) -> int | None:
    """What stands at a path, links followed; None where nothing does."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # links in a circle, a name that is too long
        raise UserError(f"{path}: cannot be written ({error.strerror}). Give another path.") from None


def _kind(mode: int) -> str:
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "a file")


def _refuse_other_than_folder(path: Path) -> None:
    mode = _mode(path)
    if mode is not None and not stat.S_ISDIR(mode):
        raise UserError(f"{path}: {_kind(mode)} stands where a folder is to be made. Give another path.")


def _make_folder(folder: Path, asked: str | Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{asked}: its folder cannot be made ({error.strerror}). Give another path.") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(_unwritable(asked, folder))


def _unwritable(asked: str | Path, folder: Path) -> str:
    return (
        f"{asked}: no file can be written in {folder} (read-only, or another user's). Give another path, or correct its "
        "permissions."
    )


def check_unused(target: Path) -> None:
    """Raise `UserError` if `target` exists and is not an empty folder; a link is none, even to one."""
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UserError(f"{target}: exists already. Choose another folder or remove it.")
