"""Start-up lines of other packages: those that say nothing are dropped, warnings stay."""

import logging

import pytest

from nemo_mm_align.core.quiet import quiet_import


@pytest.mark.parametrize(
    ("name", "level", "text", "stays"),
    [
        ("nemo_logger", logging.INFO, "ExpManager schema", False),
        ("nemo_logger", logging.INFO, {"explicit_log_dir": None, "exp_dir": None}, False),
        ("nemo_logger", logging.WARNING, "No version folders would be created under the log folder as", False),
        ("nemo_logger", logging.INFO, "Experiments will be logged at results/sft", True),
        ("nemo_logger", logging.WARNING, "exp_manager: the disk is slow", True),
        ("nv_one_logger.api.config", logging.WARNING, "OneLogger: Setting error_handling_strategy to DISABLE", False),
        ("nv_one_logger.api.config", logging.ERROR, "OneLogger: telemetry failed", True),
        ("lightning.pytorch.utilities.rank_zero", logging.INFO, "TPU available: False, using: 0 TPU cores", False),
        ("lightning.pytorch.utilities.rank_zero", logging.INFO, "GPU available: True (cuda), used: True", True),
    ],
)
def test_lines_of_no_use_are_dropped_and_warnings_stay(name: str, level: int, text: object, stays: bool) -> None:
    logger, seen = logging.getLogger(name), []
    handler = logging.Handler()
    handler.emit = seen.append  # type: ignore[method-assign]
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        with quiet_import():
            logger.log(level, text)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert bool(seen) == stays
