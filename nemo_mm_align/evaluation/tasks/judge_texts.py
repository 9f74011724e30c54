"""What a judge is told: texts of others put into templates of others, whatever braces either of them holds."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from nemo_mm_align.core.errors import UserError, suggestion

_FIELD = re.compile(r"\{(\w+)\}")
_FIELD_OR_DOUBLED = re.compile(r"\{\{|\}\}|\{(\w+)\}")


def fields_of(template: str, known: Collection[str], where: str) -> frozenset[str]:
    """Return the names in braces of a template.

    Args:
        known: what there are values for.
        where: the template's place, for the message.

    Raises:
        UserError: a name in braces that is unknown. Other braces, those of JSON for example, are text.
    """
    names = frozenset(_FIELD.findall(template))
    for name in sorted(names - set(known)):
        raise UserError(f"{where}: {{{name}}} stands for nothing here.{suggestion(name, known)}")
    return names


def fill(template: str, values: Mapping[str, str], doubled: bool = False) -> str:
    """Return a template with values in place of their names in braces, in one pass: braces in a value stay text.

    Args:
        doubled: write ``{`` for ``{{`` and ``}`` for ``}}`` in the template, as `str.format` does.
    """

    def placed(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return found[0][0]
        return values.get(name, found[0])

    return (_FIELD_OR_DOUBLED if doubled else _FIELD).sub(placed, template)
