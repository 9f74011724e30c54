"""Entry points: a Hydra application whose help is its configuration file and whose mistakes end with one sentence."""

from __future__ import annotations

import difflib
import functools
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from nemo_mm_align.cli.configuration_help import settings_at, table
from nemo_mm_align.cli.entry_point import describe, end, user_errors
from nemo_mm_align.core.errors import check_keys, foreign_key, suggestion
from nemo_mm_align.core.orphans import end_with_launcher

FULL_ERROR = "HYDRA_FULL_ERROR"

_HOSTED = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=stdout")
"""What NeMo's `hydra_runner` tells Hydra: folders and log files are the experiment manager's."""

Task = Callable[[DictConfig], None]
Host = Callable[..., Callable[[Task], Callable[[DictConfig], Any]]]


def command(
    name: str, host: Callable[[], Host] | None = None, check: Task | None = None, types: Sequence[str] = ()
) -> Callable[[Task], Callable[[], None]]:
    """Make a function the entry point of its script, configured by ``../conf/<name>.yaml``.

    What a user can cause ends with a message and exit code 2, see `user_errors`; so do words on the command line that
    Hydra refuses. ``--help`` shows the script's docstring, its configuration file, comments included, and what each setting
    takes.

    Args:
        name: of the configuration.
        host: returns a decorator like `hydra.main` that gets the composed configuration, for example NeMo's `hydra_runner`;
            called when that is known to be right, since importing such a thing takes long.
        check: is given the composed configuration before anything slow is imported, and raises what a user can mend.
        types: ``module:Type`` of the settings, which say what each takes.
    """

    def decorate(function: Task) -> Callable[[], None]:
        folder = Path(function.__code__.co_filename).resolve().parents[1] / "conf"

        @functools.wraps(function)
        def run() -> None:
            sys.argv[1:] = options_first(sys.argv[1:])
            if {"--help", "-h"} & set(sys.argv[1:]):
                own = own_folders(sys.argv[1:])
                sys.stdout.write(help_text(function.__globals__.get("__doc__") or "", folder, name, types, own))
                return
            end_with_launcher()
            _check_choices(sys.argv[1:], groups_of(folder, name))
            asked, words = os.environ.get(FULL_ERROR), sys.argv[1:]
            logging.raiseExceptions = (
                asked == "1"
            )  # a log file on a full disk: no traceback between the lines that count

            @functools.wraps(function)
            def task(config: DictConfig) -> None:
                _set(FULL_ERROR, asked)
                # Hydra refuses unknown words of the command line alone; keys of a user's YAML files it takes over.
                check_keys(map(str, config), top_level_keys(folder, name))
                sys.argv[1:] = words
                if check is not None:
                    check(config)
                if host is not None:
                    host()(config_path="../conf", config_name=name)(function)(config)
                else:
                    function(config)

            try:
                if host is not None:
                    sys.argv += _HOSTED
                sys.argv[1:] = with_own_groups(sys.argv[1:], folder, name)
                with _hydra_raises(asked):
                    _compose_and_run(user_errors(task), name)
            except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
                # Of composing: the task ends with its own.
                if asked == "1":
                    raise
                end(
                    _of_another_option(error, folder, name)
                    or describe_refusal(error, words, groups_of(folder, name), top_level_keys(folder, name))
                )

        return run

    return decorate


def _check_choices(words: Sequence[str], groups: Mapping[str, Sequence[str]]) -> None:
    """End with a message where an option is chosen by null, at which Hydra ends with a traceback."""
    for word in words:
        group, _, value = word.partition("=")
        if group in groups and value.lower() in ("null", "~"):
            end(f"{word}: leave it out for the default, or choose from {', '.join(groups[group])}.")


_TAKE_A_VALUE = (
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--config-dir",
    "-cd",
)


def options_first(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with Hydra's options before the settings: in their midst Hydra refuses them."""
    options, settings, rest = list[str](), list[str](), list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            settings.append(word)
            continue
        options.append(word)
        if word in _TAKE_A_VALUE and rest:
            options.append(rest.pop(0))
    return [*options, *settings]


def with_own_groups(words: Sequence[str], folder: Path, name: str) -> list[str]:
    """Return words of a command line that find the groups which a command has for itself, in ``conf/<name>/``.

    They are no groups of the others, whose keys may have the same names.
    """
    own = folder / name
    if not own.is_dir():
        return list(words)
    quoted = "'" + f"file://{own}".replace("\\", "\\\\").replace("'", "\\'") + "'"
    given = [word for word in words if word.startswith("hydra.searchpath=[") and word.endswith("]")]
    others = [word for word in words if word not in given]
    listed = ",".join([*(word.partition("=")[2][1:-1] for word in given), quoted])
    return [*others, f"hydra.searchpath=[{listed}]"]


def own_folders(words: Sequence[str]) -> list[Path]:
    """Return the folders of a user's own configurations that a command line names, by ``--config-dir``."""
    found = [word.partition("=")[2] for word in words if word.startswith(("--config-dir=", "-cd="))]
    pairs = itertools.pairwise(words)
    return [Path(one) for one in [*found, *(value for word, value in pairs if word in ("--config-dir", "-cd"))]]


def _compose_and_run(task: Task, name: str) -> None:
    import hydra

    hydra.main(version_base=None, config_path="../conf", config_name=name)(task)()


@contextmanager
def _hydra_raises(asked: str | None) -> Iterator[None]:
    """Have Hydra raise what it refuses, instead of printing it and ending with exit code 1."""
    _set(FULL_ERROR, "1")
    try:
        yield
    finally:
        _set(FULL_ERROR, asked)


def _set(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value


@functools.cache
def _configuration(folder: Path, name: str) -> tuple[str, list[Any], set[str]]:
    """Text, defaults list and keys of a configuration file."""
    text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    return text, values.get("defaults", []), set(values) - {"defaults", "hydra"}


def groups_of(folder: Path, name: str, own: Sequence[Path] = ()) -> dict[str, list[str]]:
    """Return the groups that a configuration chooses from, with their options, those of a user's own folders as well."""
    found: dict[str, list[str]] = {}
    for item in _configuration(folder, name)[1]:
        if isinstance(item, str) and (folder / f"{item}.yaml").is_file():
            found |= groups_of(folder, item, own)
        elif isinstance(item, dict):
            for group in item:
                files = [path for place in (folder, folder / name, *own) for path in (place / group).glob("*.yaml")]
                found[group] = sorted({path.stem for path in files})
    return {group: options for group, options in found.items() if options}


def top_level_keys(folder: Path, name: str) -> set[str]:
    """Return the keys and groups of a configuration, with those of configurations that it is made of."""
    _, defaults, keys = _configuration(folder, name)
    parts = [item for item in defaults if isinstance(item, str) and (folder / f"{item}.yaml").is_file()]
    return keys.union(groups_of(folder, name), *(top_level_keys(folder, part) for part in parts))


def help_text(description: str, folder: Path, name: str, types: Sequence[str] = (), own: Sequence[Path] = ()) -> str:
    """Return what ``--help`` shows: the docstring, the configuration file, what its settings take, options of its groups."""
    text = _configuration(folder, name)[0].split("\nhydra:")[0]
    listed = [f"  {group}: {', '.join(options)}\n" for group, options in groups_of(folder, name, own).items()]
    choices = f"\n\nGroups, chosen by GROUP=NAME:\n{''.join(listed)}" if listed else "\n"
    taken = f"\n\nWhat they take:\n{table(settings_at(types))}" if types else "\n"
    return (
        f"{description.strip()}\n\nSettings with their defaults, changed by KEY=VALUE (??? must be given), as they stand in "
        f"conf/{name}.yaml:\n\n{text.rstrip()}{taken}{choices.removeprefix(chr(10))}"
    )


def describe_refusal(error: Exception, words: list[str], groups: dict[str, list[str]], keys: set[str]) -> str:
    """Say in a sentence what Hydra does not accept.

    Args:
        words: of the command line, among which a misspelt group is looked for.
        groups: known groups and their options.
        keys: known at top level.
    """
    if isinstance(error, OverrideParseException):
        reason = error.message.removeprefix(f"Error parsing override '{error.override}'").strip().splitlines()[0]
        return (
            f"cannot read {error.override!r} ({reason}). Write KEY=VALUE; put a value with blanks, commas, brackets or "
            "colons in quotes of its own: 'question=\"What is this, and why?\"'."
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        return _describe_option(error.missing_cfg_file, error.options, groups)
    if isinstance(error, yaml.YAMLError):
        return f"{_place(error)}: not YAML ({getattr(error, 'problem', None) or error}). Correct the file."
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        full_key = str(cause.full_key)
        unknown = full_key == cause.key and full_key not in keys
        text = f"configuration has no key {full_key}.{suggestion(full_key, keys)}" if unknown else describe(cause)
        return text or str(cause)
    return _describe_choice(str(error), words, groups)


def _of_another_option(error: Exception, folder: Path, name: str) -> str | None:
    """What is said of a word on the command line that only other options of its group know; None where none does."""
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if not isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return None
    group, *keys = str(cause.full_key).split(".")
    options = groups_of(folder, name).get(group, []) if keys else []
    files = {option: _file_of(folder, name, group, option) for option in options}
    owners = [option for option, file in files.items() if _holds(file, group, keys)]
    return foreign_key(str(cause.full_key), group, owners) if owners else None


def _file_of(folder: Path, name: str, group: str, option: str) -> Path:
    """Where an option stands: in a group that a command has for itself, or in one that all have."""
    own = folder / name / group / f"{option}.yaml"
    return own if own.is_file() else folder / group / f"{option}.yaml"


def _holds(path: Path, group: str, keys: Sequence[str]) -> bool:
    """Whether an option of a group sets a key of the section that is called like the group."""
    text = path.read_text(encoding="utf-8")
    values: Any = yaml.safe_load(text)
    for key in (group, *keys) if "@package _global_" in text else keys:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def _describe_option(missing: str, options: Sequence[str], groups: dict[str, list[str]]) -> str:
    """What is wrong with an option, where `missing` is ``GROUP/OPTION``: misspelt, or a file instead of a name."""
    group = next((name for name in groups if missing.startswith(f"{name}/")), missing.rpartition("/")[0])
    option = missing.removeprefix(f"{group}/")
    if "/" not in option and not option.endswith((".yaml", ".yml")):
        return f"{group}={option}: there is no such option.{suggestion(option, options)}"
    name = Path(option).stem
    return (
        f"{group}={option}: this takes a name, not a file. For a file of your own, FOLDER/{group}/{name}.yaml, give "
        f"--config-dir=FOLDER {group}={name}. Known here: {', '.join(sorted(options))}."
    )


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{mark.name}:{mark.line + 1}" if mark else "a configuration file"


def _describe_choice(text: str, words: list[str], groups: dict[str, list[str]]) -> str:
    """What is wrong with the choice of groups."""
    missing = re.match(r"You must specify '(\w+)'", text)
    if missing:
        group = missing[1]
        given = {word.partition("=")[0] for word in words} - set(groups)
        near = difflib.get_close_matches(group, given, n=1)
        misspelt = f" Did you mean it by {near[0]}?" if near else ""
        return f"{group} is not chosen.{misspelt} Give {group}=NAME, one of {', '.join(groups.get(group, []))}."
    unmatched = re.search(r"Could not override '(\w+)'\. No match in the defaults list", text)
    if unmatched:
        return f"configuration has no group {unmatched[1]}.{suggestion(unmatched[1], groups)}"
    return " ".join(text.split("Config search path:")[0].split())
