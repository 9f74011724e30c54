"""One owner for a run's folder or an output file: a lock file that says who that is and survives what happens to it.

A lock is a file that is linked into its place complete, which one of several processes achieves on NFS as well. Its owner
touches it every `HEARTBEAT_S`, holds the kernel's lock on it where the file system has such locks, and removes it at the
end. The lock of a process that has ended without doing so is taken over, with a line in the log; of one on another machine
that cannot be known, and the next process says so.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nemo_mm_align.core.errors import UserError, is_full_disk
from nemo_mm_align.core.outputs import beside
from nemo_mm_align.core.owner import Owner, Standing
from nemo_mm_align.core.units import describe_age

logger = logging.getLogger(__name__)

HEARTBEAT_S = 10.0
_DEAD_S = 6 * HEARTBEAT_S
"""Without a heartbeat for so long the lock of a machine that has rebooted is no longer anybody's."""
_ORPHAN_WAIT_S = 30.0
_TAKEOVER_S = 60.0
"""A takeover lasts a moment: what is older was left by a process that was killed in it."""
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)

_held: dict[Path, Lock] = {}


@dataclass(frozen=True)
class _Found:
    """A lock file as it stands there.

    Args:
        text: its content, by which it is known again.
        owner: None where the text is none of ours.
        age_s: seconds since its last heartbeat, by the clock of the file system.
    """

    text: str
    owner: Owner | None
    age_s: float


class Lock:
    """A lock that this process holds, with the thread that touches it."""

    def __init__(self, path: Path, file: IO[str], text: str) -> None:
        self.path, self._file, self._text, self._pid = path, file, text, os.getpid()
        self.reserved = False
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock heartbeat", daemon=True)
        self._thread.start()

    @property
    def is_of_this_process(self) -> bool:
        """Whether this process took it, not the one that it was forked from."""
        return self._pid == os.getpid()

    def release(self) -> None:
        """Remove the lock, if it is still ours; in a forked process and a second time nothing happens."""
        if not self.is_of_this_process or self._released.is_set():
            return
        self._released.set()
        with contextlib.suppress(OSError):
            if self._is_ours():
                self.path.unlink()
        self._file.close()

    def _is_ours(self) -> bool:
        return self.path.read_text(encoding="utf-8") == self._text

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            try:
                if not self._is_ours():
                    raise FileNotFoundError
                os.utime(self.path)
            except FileNotFoundError:
                if not self._released.is_set():
                    logger.error("%s: this lock was removed while its process runs; start no second one", self.path)
                return
            except OSError:  # a server that does not answer for a while
                continue


@contextlib.contextmanager
def owned(path: Path, what: str | Path, remedy: str) -> Iterator[None]:
    """Hold the lock file `path` as long as the block lasts.

    Args:
        path: the lock file; its folder exists.
        what: is owned, for messages.
        remedy: what else a user can do than wait, as the end of a sentence: ``give another out``.

    Raises:
        UserError: another process holds it, or may hold it.
    """
    take(path, what, remedy)
    try:
        yield
    finally:
        release(path)


@contextlib.contextmanager
def owned_output(path: Path, remedy: str = "give another out") -> Iterator[None]:
    """Hold an output file, or a folder that may not exist yet; the folder above exists. Raises as `owned` does."""
    with owned(lock_of(path), path, remedy):
        yield


def reserve(path: Path, what: str | Path, remedy: str) -> None:
    """Hold a lock for a part of this process that will `take` it, or until this process ends; raises as `owned` does."""
    take(path, what, remedy)
    _held[_key(path)].reserved = True


def take(path: Path, what: str | Path, remedy: str) -> None:
    """Take a lock until `release`, or until this process ends; raises as `owned` does."""
    path = _key(path)
    mine = _held.get(path)
    if mine is not None and mine.reserved and mine.is_of_this_process:
        mine.reserved = False
        return
    try:
        _held[path] = lock = _wait_for(path, what, remedy)
    except OSError as error:
        if is_full_disk(error):
            raise
        raise UserError(
            f"{what}: its lock {path} cannot be written ({error.strerror}). Correct that, or {remedy}."
        ) from None
    atexit.register(lock.release)


def _wait_for(path: Path, what: str | Path, remedy: str) -> Lock:
    """Return the lock once it is this process's; raise `UserError` where another's stands in the way."""
    waited_until = time.monotonic() + _ORPHAN_WAIT_S
    while (lock := _place(path)) is None:
        found = _look(path)
        if found is None:
            continue  # released meanwhile
        reason = _why_ended(path, found)
        if reason is not None:
            _take_over(path, found, what, reason)
        elif found.owner is None or not Owner.here().is_orphan(found.owner) or time.monotonic() > waited_until:
            raise UserError(_describe(path, found, what, remedy))
        else:
            time.sleep(0.2)
    return lock


def release(path: Path) -> None:
    """Release a lock of this process; nothing where it holds none."""
    lock = _held.pop(_key(path), None)
    if lock is not None:
        lock.release()
        atexit.unregister(lock.release)


def lock_of(path: Path) -> Path:
    """Return the lock file of an output file, or of a folder that may not exist yet: a hidden file beside it."""
    return beside(_key(path), "lock")


def _key(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _place(path: Path) -> Lock | None:
    """Put a lock of this process into its place; None where another one stands there."""
    draft = path.with_name(f".lock-{uuid.uuid4().hex}")
    file = draft.open("w+", encoding="utf-8")
    try:
        text = Owner.here(locked=_lock_in_kernel(file)).to_json()
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
        if _link(draft, path):
            return Lock(path, file, text)
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    finally:
        draft.unlink(missing_ok=True)


def _link(draft: Path, path: Path) -> bool:
    try:
        os.link(draft, path)
    except OSError as error:
        if draft.stat().st_nlink == 2:  # NFS asks again where an answer was lost: what counts is the second name
            return True
        if error.errno in _NO_LINKS:
            return _rename_into(draft, path)
        if error.errno != errno.EEXIST:
            raise
        return False
    return True


def _rename_into(draft: Path, path: Path) -> bool:
    """On file systems without links: claim the name, then fill it in one step."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    os.replace(draft, path)
    return True


def _lock_in_kernel(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # some network file systems know no locks
        return False
    return True


def _look(path: Path) -> _Found | None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError:  # another user's
        text = ""
    try:
        return _Found(text, Owner.from_json(text), max(0.0, _now_there(path) - path.stat().st_mtime))
    except FileNotFoundError:
        return None


def _now_there(path: Path) -> float:
    """The time by the clock that gives files their times: a server's differs from this machine's."""
    probe = path.with_name(f".now-{uuid.uuid4().hex}")
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _why_ended(path: Path, found: _Found) -> str | None:
    """Return how it is known that the owner of a lock has ended; None where it runs or that is not known."""
    here, owner = Owner.here(), found.owner
    if owner is None:
        return None
    if owner.locked and here.shares_machine(owner) and here.pid_namespace != owner.pid_namespace:
        return "has ended" if _is_free(path) else None  # in another container, whose processes cannot be seen
    standing = here.standing(owner)
    if standing is Standing.ENDED:
        return "has ended" if here.shares_machine(owner) else "has ended, since this job was started again after it"
    if standing is Standing.RUNS:
        return None
    rebooted = not here.shares_machine(owner) and owner.host == here.host and owner.boot and here.boot
    return "has ended with its machine" if rebooted and found.age_s > _DEAD_S else None


def _is_free(path: Path) -> bool:
    """Whether nobody holds the kernel's lock, which goes with its owner."""
    try:
        with path.open("r+", encoding="utf-8") as file:
            return _lock_in_kernel(file)
    except OSError:
        return False


def _take_over(path: Path, found: _Found, what: str | Path, reason: str) -> None:
    """Remove the lock of a process that has ended, unless another process is doing so."""
    guard = path.with_name(f"{path.name}.takeover")
    try:
        os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):
            if _now_there(path) - guard.stat().st_mtime > _TAKEOVER_S:
                guard.unlink()
        time.sleep(0.1)
        return
    try:
        again = _look(path)
        if again is not None and again.text == found.text:
            path.unlink()
            logger.warning("%s: going on after %s, which %s without giving it back", what, found.owner, reason)
    finally:
        guard.unlink(missing_ok=True)


def _describe(path: Path, found: _Found, what: str | Path, remedy: str) -> str:
    owner, here, age = found.owner, Owner.here(), describe_age(found.age_s)
    if owner is None:
        return f"{what}: {path} says that a process writes it, but not which. If none does, remove that file; else {remedy}."
    if here.standing(owner) is Standing.RUNS or here.shares_machine(owner):
        return f"{what}: {owner} writes it. Wait for its end, or end it; or {remedy}."
    return (
        f"{what}: {owner} has it, on another machine, of which {here.host} cannot know whether it still runs: its last sign of "
        f"life is {age} old, and a process that runs gives one every {HEARTBEAT_S:.0f} s. If it has ended, remove {path} and "
        f"start again; else wait for it, or {remedy}."
    )
