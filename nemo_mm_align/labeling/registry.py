"""From the configuration group `judge` to a judge."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from nemo_mm_align.errors import UserError
from nemo_mm_align.labeling.judge import Judge


def build_judge(config: Mapping[str, Any]) -> Judge:
    """Return the judge that `_target_` names, made with the other keys as arguments.

    Raises:
        UserError: `_target_` names no class, or a key is none of its arguments. The judge itself may raise one too.
    """
    arguments = {key: value for key, value in config.items() if key != "_target_"}
    target = str(config.get("_target_", ""))
    module_name, _, class_name = target.rpartition(".")
    try:
        judge_class = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"judge._target_={target!r} cannot be imported ({error}). Name a class, package.module.Class."
        ) from None
    try:
        inspect.signature(judge_class).bind(**arguments)
    except TypeError as error:
        known = ", ".join(inspect.signature(judge_class).parameters)
        raise UserError(f"judge: {error}. Settings of {class_name}: {known}.") from None
    judge: Judge = judge_class(**arguments)
    return judge
