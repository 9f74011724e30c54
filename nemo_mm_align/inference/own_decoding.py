"""What is said where prompts bring decoding settings of their own, which take the place of the run's."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.schema.records import Decoding, Prompt

logger = logging.getLogger(__name__)

LIMIT = "max_new_tokens"


def warn_of_unused(
    task: str, section: Mapping[str, Any], prompts: Sequence[Prompt], run: SamplingSettings, typed: Collection[str]
) -> None:
    """Log which settings that a user typed a task's prompts are answered without, and what changes them.

    Args:
        task: its name among `tasks`.
        section: its settings, defaults included.
        prompts: its own.
        run: the run's settings, which hold where a prompt says nothing.
        typed: the keys that the user gave.
    """
    for name in Decoding.model_fields:
        own = [value for prompt in prompts if (value := getattr(prompt.decoding, name, None)) is not None]
        value = getattr(run, name)
        if name in typed and any(one != value for one in own):
            remedy = f"set it by {_setting(task, name)}" if name in section else "the task prescribes it"
            logger.warning(
                "%s=%s: not for %d of %d prompts of the task %s, which bring their own (%s); %s",
                name,
                value,
                len(own),
                len(prompts),
                task,
                _shown(own),
                remedy,
            )


def _shown(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _setting(task: str, name: str) -> str:
    """How a task's setting is written on a command line, where its section may not have it yet."""
    return f"'tasks={{{task}: {{{name}: ...}}}}'"


def limit_key(prompt: Prompt, task: str | None) -> str:
    """Return the setting that bounds a prompt's answer: the run's, the task's that brings it, or the prompt's own."""
    if prompt.decoding is None or prompt.decoding.max_new_tokens is None:
        return LIMIT
    return f"decoding.{LIMIT} of these prompts" if task is None else f"tasks.{task}.{LIMIT} ({_setting(task, LIMIT)})"
