"""The stage behind ``scripts/prepare.py``: downloaded files in; prompts, annotations or training records out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from nemo_mm_align.core.atomic import write_lines
from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError, shorten
from nemo_mm_align.core.lock import owned_output
from nemo_mm_align.core.outputs import file_to_write
from nemo_mm_align.datasets.faults import FaultReport
from nemo_mm_align.datasets.huggingface import check_name
from nemo_mm_align.datasets.prepare.earlier import digest, identity, is_there_already, summary_path
from nemo_mm_align.datasets.prepare.images import check_images
from nemo_mm_align.datasets.prepare.reader import Reader
from nemo_mm_align.datasets.prepare.selection import drawn
from nemo_mm_align.datasets.prepare.settings import PrepareSettings
from nemo_mm_align.datasets.prepare.source import (
    ANNOTATIONS,
    PROMPTS,
    UNREAD,
    Product,
    Source,
    build_source,
)
from nemo_mm_align.datasets.prepare.spool import Spool
from nemo_mm_align.datasets.prepare.summary import PrepareSummary
from nemo_mm_align.datasets.source_rows import check_file

logger = logging.getLogger(__name__)

SHOWN_KEYS = 20
"""In the warning of keys that are not read."""


def prepare_from_config(config: DictConfig) -> PrepareSummary | None:
    """Prepare what a configuration (``conf/prepare.yaml``) asks for; see `prepare`."""
    missing = [f"{key}=..." for key in ("data", "out") if OmegaConf.is_missing(config, key)]
    if config.get("source") is None:
        missing.insert(0, "source=... (lrv, scigraphqa, steerlm_json, ...: --help lists all)")
    if missing:
        raise UserError(f"missing on the command line: {', '.join(missing)}. Each is explained in conf/prepare.yaml.")
    values: Any = OmegaConf.to_container(config, resolve=True)
    return prepare(read(PrepareSettings, values))


def prepare(settings: PrepareSettings) -> PrepareSummary | None:
    """Read the data, write ``out`` and ``<out>.summary.json``, and all faults to a file of their own; return the summary.

    Where `out` is there already, of the same settings and data, nothing is done and None returned.

    Raises:
        UserError: data that are missing, of another form or faulty (see `PrepareSettings.on_fault`), missing images,
            nothing left to write, an `out` of other settings, or one that cannot be written.
    """
    source = build_source(settings.source)
    product = _product(source, settings)
    _refuse_unread(source, settings, product)
    _check_data(settings)
    file_to_write(settings.out)
    with owned_output(settings.out):
        made_of = identity(settings)
        if is_there_already(settings, made_of):
            logger.info("%s: is there already, made with these settings of these data; nothing to do.", settings.out)
            return None
        summary = _prepare(source, settings, product, made_of)
    logger.info("%s\nwrote %s", summary.table(), settings.out)
    for warning in summary.warnings:
        logger.warning("%s", warning)
    return summary


def _product(source: Source, settings: PrepareSettings) -> Product:
    product = settings.gives or source.gives[0]
    if product not in source.gives:
        raise UserError(f"gives={product}: source={source.name} gives {' or '.join(source.gives)}.")
    if product == ANNOTATIONS and not source.judge:
        raise UserError("source.judge='': annotations say who rated; give source.judge=NAME.")
    return product


def _refuse_unread(source: Source, settings: PrepareSettings, product: Product) -> None:
    """Raise `UserError` for a setting that a user gave and that nothing would read."""
    given = {key: getattr(settings, key) for key in UNREAD if getattr(settings, key) != _default(key)}
    for key, value in given.items():
        if key in source.unread:
            raise UserError(f"{key}={value}: source={source.name} has no use for it, {UNREAD[key]}. Leave it out.")
    if "question" in given and product != PROMPTS:
        raise UserError(f"question={given['question']}: is for gives=prompts; gives={product} takes every question.")


def _default(key: str) -> Any:
    return PrepareSettings.model_fields[key].default


def _check_data(settings: PrepareSettings) -> None:
    for name in settings.files:
        path = Path(name)
        if not path.exists():
            check_file(path)
            check_name(name)
        elif path.resolve() == settings.out.resolve():
            raise UserError(f"out={settings.out} is the data file itself; give another name.")


def _prepare(source: Source, settings: PrepareSettings, product: Product, made_of: Mapping[str, Any]) -> PrepareSummary:
    reader = Reader(source, settings, product)
    summary = reader.summary
    with Spool(settings.out) as spool:
        reader.fill(spool)
        _judge(reader.report, settings)
        kept = drawn([entry.id for entry in spool.entries], settings)
        if outside := len(spool.entries) - len(kept):
            summary.dropped["not drawn"] += outside
        if not kept:
            raise UserError(f"{', '.join(settings.files)}: no record is left:\n{summary.table()}")
        if settings.images == "check":
            check_images(spool, kept, settings)
        summary.count(entry for entry in spool.entries if entry.id in kept)
        summary.warnings += _warnings(reader, settings, len(spool.entries))
        lines = spool.lines(lambda entry: entry.id in kept)
        write_lines(settings.out, (line for _, line in tqdm(lines, "writing", len(kept), disable=None)))
    extra = {"sha256": digest(settings.out), "identity": made_of, "data": settings.files}
    summary.write(summary_path(settings.out), extra)
    return summary


def _warnings(reader: Reader, settings: PrepareSettings, found: int) -> list[str]:
    warnings = []
    if unknown := reader.keys.unknown:
        shown = ", ".join(f"{shorten(key, 60)} ({count:,} times)" for key, count in unknown.most_common(SHOWN_KEYS))
        warnings.append(f"{', '.join(settings.files)}: these keys are not read: {shown}")
    if settings.count is not None and found < settings.count:
        warnings.append(f"count={settings.count:,}, but there are {found:,} to draw from.")
    return warnings


def _judge(report: FaultReport, settings: PrepareSettings) -> None:
    """Write and tell the faults; raise where they refuse the data, or where there is no record at all."""
    if report.records == 0:
        wanted = "" if settings.records is None else f" with a number from {settings.records[0]:,} on"
        raise UserError(f"{report.source}: no record{wanted} in it.")
    if not report.faults:
        if settings.fault_report is None and settings.faults.is_file():
            settings.faults.unlink()  # of an earlier, refused run
        return
    report.write(settings.faults)
    summary = f"{report.summary()}\nAll faults: {settings.faults}"
    if settings.on_fault == "error":
        raise UserError(f"{summary}\nMend the records, or set on_fault=drop to leave them out. Nothing was written.")
    logger.warning("%s", summary)
