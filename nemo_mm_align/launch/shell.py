"""Pieces of job scripts in bash that Slurm, Kubernetes and this machine share."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

_WIDTH = 100

RUN_FUNCTION = """\
# Runs a command in the background and waits for it: bash runs a trap only between commands, but `wait` ends at once
# for one; the command goes on meanwhile.
run() {
    local code
    "$@" &
    task=$!
    while true; do
        interrupted=no
        wait "$task"
        code=$?
        [ "$interrupted" = yes ] || return "$code"
    done
}"""


def quote(word: object) -> str:
    """Quote a word for the shell where it needs it, the readable way."""
    text = str(word)
    return f'"{text}"' if "'" in text and not re.search(r'["$`\\!\n]', text) else shlex.quote(text)


def command_lines(words: Iterable[str], indent: str = "") -> list[str]:
    """Break a command of quoted words into lines that end with a backslash."""
    lines, line = [], ""
    for word in words:
        if line and len(indent) + len(line) + len(word) + 3 > _WIDTH:
            lines.append(f"{line} \\")
            line = f"    {word}"
        else:
            line = f"{line} {word}" if line else word
    return [f"{indent}{text}" for text in [*lines, line]]


def export_lines(variables: dict[str, str]) -> list[str]:
    """Return one export per variable."""
    return [f"export {name}={quote(value)}" for name, value in variables.items()]


def python_words(python: str, script: str, overrides: Sequence[str]) -> list[str]:
    """Return the words that start a script in one process; its output is not buffered."""
    return [quote(python), "-u", quote(script), *map(quote, overrides)]


def torchrun_words(python: str, options: Sequence[str], script: str, overrides: Sequence[str]) -> list[str]:
    """Return the words that start a script under torchrun; `options` may hold shell variables."""
    start = [quote(python), "-u", "-m", "nemo_mm_align.launch.torchrun", *options]
    return [*start, quote(script), *map(quote, overrides)]
