"""Mistakes in what is watched while a model is trained, found before anything is imported or read that takes long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nemo_mm_align.cli.typed import typed_keys
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.sources import check_present
from nemo_mm_align.training.settings import TrainSettings

_SETTING = "data.validation"
_GUARDED = ("guards.prompts", "guards.task")


def check_watched(settings: TrainSettings) -> None:
    """Check `data.validation`, `validation` and `guards` as far as settings and file names tell.

    Raises:
        UserError: a held-out file that cannot be there or is the one that is trained on, guards of a model that cannot answer,
            or typed settings of one of the two where it is off.
    """
    _check_source(settings)
    if settings.data.validation is None:
        _refuse_unread("validation", (_SETTING,), f"{_SETTING}=FILE (or a share of data.train, {_SETTING}=0.05)")
    _check_guards(settings)
    if not settings.guards.wanted:
        _refuse_unread("guards", _GUARDED, "guards.prompts=FILE or task@guards.task=NAME")


def _refuse_unread(section: str, switches: Sequence[str], remedy: str) -> None:
    """Refuse typed settings of a section that is off, unless a switch of it was typed as well: then that is meant."""
    typed = [key.partition("@")[2] or key for key in typed_keys()]
    unread = [key for key in typed if key.partition(".")[0] == section and key not in switches]
    if unread and not set(typed) & set(switches):
        raise UserError(
            f"{', '.join(unread)}: read by nothing, since {' and '.join(switches)} {'are' if switches[1:] else 'is'} null. "
            f"Give {remedy}, or leave {unread[0]} out."
        )


@contextmanager
def named(path: str) -> Iterator[None]:
    """Say of a `UserError` within that it is about the held-out data."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{_SETTING}={path}: {error}") from None


def _check_source(settings: TrainSettings) -> None:
    source = settings.data.validation_source()
    if source is None:
        return
    with named(source.path):
        check_present(source)
    if source.path == settings.source.path or Path(source.path).resolve() == Path(settings.source.path).resolve():
        raise UserError(
            f"{_SETTING}={source.path} is the file that is trained on (data.train): what was learned by heart would look good. "
            f"Give another file, or a share of this one, {_SETTING}=0.05."
        )


def _check_guards(settings: TrainSettings) -> None:
    guards, precision = settings.guards, settings.engine.precision
    if not guards.wanted:
        return
    off = "set guards.prompts=null and guards.task=null"
    if not settings.recipe.reads.token_losses:
        raise UserError(
            f"guards: recipe={settings.recipe.name} trains a model that rates answers and gives none. To go on, {off}."
        )
    if settings.engine.fp8 and precision != "fp8_delayed":
        raise UserError(
            f"guards: a model trained in precision={precision} cannot compute single positions. Take bf16 or fp8_delayed, or "
            f"{off}."
        )
    if guards.prompts is not None and not Path(guards.prompts).is_file():
        raise UserError(f"guards.prompts={guards.prompts}: no such file. Give a JSONL of prompts, or null.")
