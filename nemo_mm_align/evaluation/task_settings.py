"""Several tasks in one run: each one's section, put together from its file of ``conf/task`` and what the run says of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from nemo_mm_align.core.errors import UserError, suggestion
from nemo_mm_align.core.repository import CONF

GROUP = "task"
"""Folder of the tasks' files, and the key by which a section says which of them it is of."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def task_sections(
    tasks: Mapping[str, Any] | Sequence[str], folders: Sequence[Path] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the section of each task by its name, as ``task=NAME`` with the same settings would compose it.

    Args:
        tasks: by name, what is said of each (null: nothing), or names alone. The name is that of a file ``task/<name>.yaml``;
            a section with the key ``task`` names the file so, and has a name of its own: one task may stand there twice. One
            with a ``_target_`` of its own needs no file.
        folders: of configurations, the first that has a task's file is read; None: this run's, ``--config-dir`` among them.

    Raises:
        UserError: no task, an unknown one, a name that is none for a file, or a section that is no mapping.
    """
    if isinstance(tasks, list | tuple):
        tasks = dict.fromkeys(tasks)
    if not isinstance(tasks, Mapping) or not tasks:
        raise UserError(
            "tasks names no task. Give {NAME: {SETTING: VALUE}}, for example 'tasks={pope: {data: FOLDER}}'."
        )
    places = config_folders() if folders is None else folders
    return {str(name): _section(str(name), said, places) for name, said in tasks.items()}


def config_folders() -> list[Path]:
    """Return the folders that this run's configuration was looked for in, the user's own before the package's."""
    own: list[Path] = []
    if HydraConfig.initialized():
        sources = HydraConfig.get().runtime.config_sources
        own = [Path(source.path) for source in sources if source.schema == "file" and source.path]
    return list(dict.fromkeys([*(folder for folder in own if folder.resolve() != CONF), CONF]))


def known_tasks(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the file of each task."""
    return {path.stem: path for folder in reversed(folders) for path in sorted((folder / GROUP).glob("*.yaml"))}


def _section(name: str, said: Any, folders: Sequence[Path]) -> dict[str, Any]:
    if not _NAME.fullmatch(name):
        raise UserError(f"tasks.{name}: files are called so. Begin with a letter, then letters, digits, _ or -.")
    if said is not None and not isinstance(said, Mapping):
        raise UserError(f"tasks.{name}={said!r}: must hold the task's settings, KEY: VALUE; null where there are none.")
    own = dict(said or {})
    kind = str(own.pop(GROUP, name))
    files = known_tasks(folders)
    if kind not in files and kind == name and "_target_" in own:
        return own
    if kind not in files:
        where = f"tasks.{name}" + (f".{GROUP}={kind}" if kind != name else "")
        raise UserError(f"{where}: there is no such task.{suggestion(kind, files)}")
    return _merged(name, files[kind], own)


def _merged(name: str, file: Path, own: Mapping[str, Any]) -> dict[str, Any]:
    try:
        merged = OmegaConf.merge(OmegaConf.load(file), OmegaConf.create(dict(own)))
        if missing := sorted(OmegaConf.missing_keys(merged)):
            raise UserError(
                f"tasks.{name}.{missing[0]} has no value. Give it: 'tasks={{{name}: {{{missing[0]}: ...}}}}'."
            )
        found = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{file}: {str(error).splitlines()[0]}. Correct the file, or give the value.") from None
    if not isinstance(merged, DictConfig) or not isinstance(found, dict):
        raise UserError(f"{file}: holds no settings, KEY: VALUE.")
    return {str(key): value for key, value in found.items()}
