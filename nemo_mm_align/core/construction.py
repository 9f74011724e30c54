"""From a section of a configuration with a `_target_` to the object that it names."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from nemo_mm_align.core.configuration import check_arguments, check_section
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.packages import describe_missing


def check_has(made: object, names: Iterable[str], section: str, what: str) -> None:
    """Raise `UserError` where an object lacks some of the attributes that its kind has.

    Args:
        what: what it is, for the message: ``a judge``.
    """
    absent = object()  # looked up without being computed: a property may open a model
    missing = [name for name in names if inspect.getattr_static(made, name, absent) is absent]
    if missing:
        raise UserError(f"{section}: {type(made).__name__} lacks {', '.join(missing)}, which {what} has. Add them.")


def construct(config: Mapping[str, Any], section: str, what: str, offered: Mapping[str, Any] | None = None) -> Any:
    """Return what `_target_` (``package.module.Class``) makes of the section's other keys.

    Args:
        section: its name, for messages.
        what: what the class is one of, in the plural, for messages: ``judges``.
        offered: arguments that are given to a class that takes them, beside those of the section.

    Raises:
        UserError: `_target_` names no class, or a key is none of its arguments. The class itself may raise one too.
    """
    check_section(config, section)
    arguments = {key: value for key, value in config.items() if key != "_target_"}
    if "_target_" not in config:
        raise UserError(f"{section} has no _target_, which names the class: _target_: package.module.Class.")
    target = str(config["_target_"])
    module_name, _, class_name = target.rpartition(".")
    try:
        named = getattr(importlib.import_module(module_name), class_name)
    except UserError:  # one that says itself what it lacks
        raise
    except (ImportError, AttributeError, ValueError) as error:
        if missing := describe_missing(error):
            raise UserError(f"{section}._target_={target!r}: {missing}") from None
        raise UserError(
            f"{section}._target_={target!r} cannot be imported ({error}). Name a class, package.module.Class; one that is not "
            "installed is found by way of PYTHONPATH."
        ) from None
    try:
        parameters = inspect.signature(named).parameters
    except (TypeError, ValueError):
        raise UserError(
            f"{section}._target_={target!r} is no class of {what}. Name one, package.module.Class."
        ) from None
    taken = {name: value for name, value in (offered or {}).items() if name in parameters}
    check_arguments(named, arguments, section, taken)
    return named(**arguments, **taken)  # as written: they are part of the ledger's keys
