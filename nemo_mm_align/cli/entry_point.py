"""What every entry point shares: errors that a user can cause end with their message alone and exit code 2."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar

from omegaconf.errors import (
    ConfigKeyError,
    InterpolationKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from pydantic import ValidationError

from nemo_mm_align.core.errors import UserError, is_full_disk, suggestion
from nemo_mm_align.core.hashing import hash_text
from nemo_mm_align.core.packages import describe_missing
from nemo_mm_align.core.run_files import FAULT_FILE_VARIABLE

EXIT_CODE = 2

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def user_errors(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate an entry point (below its Hydra decorator): readable errors instead of tracebacks, exit code 2.

    Covers `UserError`, configuration errors of Hydra and pydantic, and a full disk; anything else is a bug and keeps
    its traceback. Of several processes of one `torchrun` only the first prints a message. ``HYDRA_FULL_ERROR=1`` shows
    the traceback of these errors as well.
    """

    @functools.wraps(function)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            text = describe(error)
            if text is not None and os.environ.get("HYDRA_FULL_ERROR") != "1":
                end(text)
            if text is not None:
                leave_note(text)
            raise

    return guarded


def say(text: str) -> None:
    """Print an error, unless another process of this run has printed the same."""
    if _first_to_say(text):
        below_a_progress_bar = "\n" if sys.stderr.isatty() else ""
        sys.stderr.write(f"{below_a_progress_bar}error: {text}\n")
        sys.stderr.flush()


def end(text: str) -> NoReturn:
    """End the process with the message of an error that a user can mend."""
    leave_note(text)
    say(text)
    sys.exit(EXIT_CODE)


def describe(error: BaseException) -> str | None:
    """Return the text for a user, or None where the error is not one that a user can mend."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OmegaConfBaseException):
        return _describe_config(error)
    if isinstance(error, ValidationError):
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'value'}: {fault['msg']}" for fault in error.errors()]
        return f"configuration of {error.title}: {'; '.join(faults)}. Check the overrides and the files in conf/."
    missing = describe_missing(error) or (describe_missing(error.__cause__) if error.__cause__ else None)
    return missing or next((text for cause in _chain(error) if (text := _describe_full_disk(cause))), None)


def _describe_config(error: OmegaConfBaseException) -> str:
    key = error.full_key or error.key
    reason = str(error).splitlines()[0]
    if isinstance(error, InterpolationToMissingValueError):
        key = reason.rpartition(": ")[2]  # "MissingMandatoryValue while resolving ...: Missing mandatory value: <key>"
    if isinstance(error, MissingMandatoryValue | InterpolationToMissingValueError):
        return f"{key} has no value. Give it on the command line: {key}=..."
    if isinstance(error, InterpolationKeyError) and "'recipe.name'" in reason:
        return (
            "the file of the recipe sets no recipe.name. Its first line must be `# @package _global_` (nothing before it, no "
            "comment either), and it has a section `recipe` with a `name`."
        )
    if isinstance(error, InterpolationKeyError):
        return f"{key}: {reason}. Correct the ${{...}} in the configuration or set {key} on the command line."
    if isinstance(error, ConfigKeyError | AttributeError):
        return f"configuration has no key {key}.{suggestion(str(key).rpartition('.')[2], _known_keys(error))}"
    return f"configuration: {key}: {reason}"


def _known_keys(error: OmegaConfBaseException) -> list[str]:
    parent = error.parent_node
    return sorted(map(str, parent)) if parent is not None and hasattr(parent, "keys") else []


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what caused it: writers of checkpoints wrap the system's error in their own."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _describe_full_disk(error: BaseException) -> str | None:
    if not is_full_disk(error) and not re.search(r"No space left on device|Disk quota exceeded", str(error)):
        return None
    where = f" while writing {error.filename}" if isinstance(error, OSError) and error.filename else ""
    return (
        f"the disk is full{where}. What was finished before is intact: free some space (or choose another folder) "
        "and start the same command again."
    )


def leave_note(text: str) -> None:
    """Write an error that no restart mends where a job script looks for it; nothing outside of one."""
    path = os.environ.get(FAULT_FILE_VARIABLE)
    if path:
        with contextlib.suppress(OSError):
            Path(path).write_text(f"{text}\n", encoding="utf-8")


def _first_to_say(text: str) -> bool:
    """Whether no other process of this run and machine has said the same.

    `torchrun` gives each process a file for its error, in a folder that is made afresh for every start: a marker there
    tells the others. Without torchrun each process speaks for itself.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not error_file:
        return True
    marker = Path(error_file).parent.parent / f"said-{hash_text(text)}"
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # for example a full disk: twice is better than never
        return True
    return True
