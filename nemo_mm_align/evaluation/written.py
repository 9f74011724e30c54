"""What an evaluation wrote of answers, so that one with other methods or tasks takes it away, and nothing else.

``<out>/written.json`` has each such file with the hash of its content: what somebody changed since is no longer this program's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_mm_align.core.atomic import write_json
from nemo_mm_align.core.hashing import hash_bytes

log = logging.getLogger(__name__)

RECORD = "written.json"
_FOLDERS = ("judged", "field")
"""Below which all of it lies."""


class Written:
    """The files of answers in the folder of an evaluation.

    Args:
        out: the folder.
    """

    def __init__(self, out: Path) -> None:
        self.out, self._now = out, set[str]()
        self._hashes = _read(out / RECORD)

    def note(self, path: Path) -> None:
        """Remember a file that has just been written."""
        name = path.relative_to(self.out).as_posix()
        self._now.add(name)
        self._hashes[name] = _hash(path)
        self._save()

    def remove_others(self) -> None:
        """Take away what earlier evaluations wrote and this one did not; what was changed since stays, with a warning."""
        for name in sorted(self._hashes.keys() - self._now):
            path, written = self.out / name, self._hashes.pop(name)
            if not path.is_file():
                continue
            if _hash(path) != written:
                log.warning(
                    "%s: of an earlier evaluation and changed since; it stays, and is no part of this one", path
                )
                continue
            path.unlink()
            log.info("%s: of an earlier evaluation, removed", path)
            _remove_empty(path.parent, self.out)
        self._save()

    def _save(self) -> None:
        write_json(self.out / RECORD, self._hashes)


@contextmanager
def rewriting(out: Path, results: str) -> Iterator[Written]:
    """Note files within, and take away those of earlier evaluations at the end.

    Args:
        out: folder of the evaluation.
        results: its file of figures, which is removed first: nobody is to read old figures beside new answers.
    """
    written = Written(out)
    (out / results).unlink(missing_ok=True)
    yield written
    written.remove_others()


def _read(path: Path) -> dict[str, str]:
    """The files that are remembered, of those alone that can be this program's."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    items = found.items() if isinstance(found, dict) else ()
    return {name: str(digest) for name, digest in items if _below(Path(name))}


def _below(path: Path) -> bool:
    return path.parts[0] in _FOLDERS and ".." not in path.parts if path.parts else False


def _hash(path: Path) -> str:
    return hash_bytes(path.read_bytes(), 64)


def _remove_empty(folder: Path, out: Path) -> None:
    """Remove a folder and those around it as long as nothing lies in them."""
    while folder != out and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
