"""From the configuration group `judge` to a judge."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.configuration import check_arguments, check_section
from nemo_mm_align.errors import UserError
from nemo_mm_align.labeling.judge import Judge


def build_judge(config: Mapping[str, Any], schema: AttributeSchema) -> Judge:
    """Return the judge that `_target_` names, made with the other keys as arguments.

    A class with an argument `schema` (one whose rules fit certain attributes only) is given the run's.

    Raises:
        UserError: `_target_` names no class, or a key is none of its arguments. The judge itself may raise one too.
    """
    check_section(config, "judge")
    arguments = {key: value for key, value in config.items() if key != "_target_"}
    target = str(config.get("_target_", ""))
    module_name, _, class_name = target.rpartition(".")
    try:
        judge_class = getattr(importlib.import_module(module_name), class_name)
    except UserError:  # a judge that says itself what it lacks
        raise
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"judge._target_={target!r} cannot be imported ({error}). Name a class, package.module.Class."
        ) from None
    try:
        parameters = inspect.signature(judge_class).parameters
    except (TypeError, ValueError):
        raise UserError(f"judge._target_={target!r} is no class of judges. Name one, package.module.Class.") from None
    taken = {"schema": schema} if "schema" in parameters else {}
    check_arguments(judge_class, arguments, "judge", taken)
    judge: Judge = judge_class(**arguments, **taken)  # as written: they are part of the ledger's keys
    return judge
