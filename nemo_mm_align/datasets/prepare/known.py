"""The sources that ship, and which of them a file looks like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.core.errors import UserError, shorten
from nemo_mm_align.datasets.formats import FORMATS
from nemo_mm_align.datasets.prepare.helpsteer import HelpSteer
from nemo_mm_align.datasets.prepare.helpsteer2_preference import HelpSteer2Preference
from nemo_mm_align.datasets.prepare.llava import LlavaConversations
from nemo_mm_align.datasets.prepare.lrv import Lrv
from nemo_mm_align.datasets.prepare.mllm_dpo import PaperPairs
from nemo_mm_align.datasets.prepare.questions import Questions
from nemo_mm_align.datasets.prepare.scigraphqa import SciGraphQA
from nemo_mm_align.datasets.prepare.source import Source
from nemo_mm_align.datasets.prepare.steerlm_json import AttributeConversations

KNOWN: tuple[type[Source], ...] = (
    Lrv,
    SciGraphQA,
    PaperPairs,
    HelpSteer,
    HelpSteer2Preference,
    AttributeConversations,
    LlavaConversations,
    Questions,
)

OWN_KEYS = ({"id", "turns"}, {"prompt_id"}, {"candidates"})
"""Of this project's own records: every line has those of one of them."""


def check_form(record: Mapping[str, Any], source: Source, path: str) -> None:
    """Raise `UserError` where a file's first record is none of the source's form; the message says whose it is."""
    if source.recognises(record):
        return
    found = f"{path}: source={source.name} reads {source.title}, but the first record has the keys {_keys(record)}"
    fitting = [other for other in KNOWN if other.recognises(record)]
    if fitting:
        raise UserError(f"{found}: {' or '.join(f'{other.title}. Give source={other.name}' for other in fitting)}.")
    if any(keys <= set(record) for keys in OWN_KEYS):
        raise UserError(f"{found}: this project's own record, which needs no preparing.")
    form = next((name for name, form in FORMATS.items() if set(form.keys) <= set(record)), None)
    if form is not None and all(isinstance(turn, Mapping) for turn in record.get("turns") or ()):
        raise UserError(f"{found}: format {form!r}, which training reads as it is (data.train={path}).")
    known = "; ".join(f"{other.name}: {other.title}" for other in KNOWN)
    raise UserError(f"{found}, which no source has. Known: {known}.")


def _keys(record: Mapping[str, Any]) -> str:
    return shorten(", ".join(map(str, record)), 300) or "none"
