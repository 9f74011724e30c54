"""What a task may have and need not, as `Task` says: looked for in a task, or in its class before there is one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from nemo_mm_align.evaluation.sources import SourceFile
from nemo_mm_align.evaluation.statistics import Statistic
from nemo_mm_align.evaluation.tasks.task import AsksJudge, Task

TaskOrClass = Task | type | None
"""A task, its class, or None for one that cannot be found: that has nothing."""


def is_rated(task: TaskOrClass) -> bool:
    """Whether it wants a judge's ratings of every answer on the schema."""
    return bool(getattr(task, "rated", False))


def is_swept(task: TaskOrClass) -> bool:
    """Whether its prompts are answered once per value of each attribute."""
    return bool(getattr(task, "swept", False))


def takes_folders(task: TaskOrClass) -> bool:
    """Whether it reads answers out of folders, too."""
    return bool(getattr(task, "answer_folders", False))


def asks_judge(task: TaskOrClass) -> bool:
    """Whether a judge is asked, for ratings or in the task's own words."""
    return is_rated(task) or isinstance(task, AsksJudge)


def statistics_of(task: Task) -> tuple[Statistic, ...]:
    """Return a task's figures that are no means."""
    return tuple(getattr(task, "statistics", ()))


def sources_of(task: Task) -> tuple[SourceFile, ...]:
    """Return the files that a task was made of."""
    return tuple(getattr(task, "sources", ()))


def task_class(config: Mapping[str, Any]) -> type | None:
    """Return the class that a task's `_target_` names; None for one that cannot be found."""
    module_name, _, class_name = str(config.get("_target_", "")).rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) else None
