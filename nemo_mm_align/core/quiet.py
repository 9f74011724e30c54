"""Start-up lines of other packages that say nothing of this run; their warnings and errors stay."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_OF_NO_USE = (
    "OneLogger: Setting error_handling_strategy",
    "No exporters were provided",
    "ExpManager schema",
    "{'explicit_log_dir':",
    "No version folders would be created under the log folder",
    "GPU available: False",
    "TPU available: False",
    "HPU available: False",
)
"""How they begin: telemetry that is off, all settings that the experiment manager knows, what resume_if_exists does, and
devices that are not there."""

_LOGGERS = (
    "nemo_logger",
    "nv_one_logger.api.config",
    "nv_one_logger.training_telemetry.api.training_telemetry_provider",
    "lightning.pytorch.utilities.rank_zero",
)


def of_use(record: logging.LogRecord) -> bool:
    """Whether a line is worth a user's time."""
    return not record.getMessage().startswith(_OF_NO_USE)


@contextmanager
def quiet_import() -> Iterator[None]:
    """Drop these lines from now on; NeMo, which writes the first of them, is imported in the block."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(of_use)
    logging.getLogger("nv_one_logger").setLevel(logging.WARNING)
    yield
    logging.getLogger("lightning").handlers.clear()  # Hydra's handler writes its lines already
