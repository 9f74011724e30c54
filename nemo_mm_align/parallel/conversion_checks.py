"""What can be known of a conversion before torch is imported: direction, paths, layout, and what does not go together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_mm_align.core import lock
from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.outputs import check_folder, check_unused, folder_to_make, folder_to_write
from nemo_mm_align.core.processes import this_process
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel.checkpoint_folder import step_folder
from nemo_mm_align.parallel.conversion_settings import ConvertSettings
from nemo_mm_align.parallel.model_card_results import read_figures
from nemo_mm_align.parallel.source import open_source

logger = logging.getLogger(__name__)


def check_early(values: Mapping[str, Any]) -> ConvertSettings:
    """Check conf/convert.yaml, composed, as plain values; `out` is this process's from then on.

    Raises:
        UserError: what is wrong, with the remedy.
    """
    config = read(ConvertSettings, values)
    check_conversion(config)
    out = place_of(config)
    if this_process().rank == 0:
        for said in config.generation.warnings():
            logger.warning("%s", said)
        lock.reserve(lock.lock_of(out), out, "give another out")
    return config


def check_conversion(config: ConvertSettings) -> None:
    """Check settings and paths against each other; nothing is written. Raises as `check_early` does."""
    if config.direction == "compose":
        _check_composition(config)
    else:
        _check_source(config)
    _check_out(config)


def place_of(config: ConvertSettings) -> Path:
    """Return the folder to write, links followed for an import, which adds to a folder; the folder above it is made."""
    return (folder_to_write if config.direction == "import" else folder_to_make)(config.out)


def layout_of(config: ConvertSettings) -> ParallelConfig:
    """Return the layout; raise `UserError` where the ranks cannot hold it."""
    parallel = config.parallel
    parallel.data_parallel_size(this_process().world_size)
    return parallel


def _check_source(config: ConvertSettings) -> None:
    source, exports = open_source(config.source), config.direction == "export"
    if not exports and source.metadata is not None:
        raise UserError(
            f"source={config.source}: is a checkpoint already; direction=export makes a Hugging Face folder."
        )
    if exports and config.adapters != "merged":
        source.refuse_head("a folder of PEFT has no place for that, adapters=merged has")
        if source.lora is None:
            raise UserError(f"source={config.source}: has no adapters; adapters=merged exports the whole model.")
    if config.results is not None:
        read_figures(config.results)
    source.template(config.chosen_template)
    source.schema(config.chosen_schema)
    source.config.check(layout_of(config))


def _check_composition(config: ConvertSettings) -> None:
    if config.chosen_template is None:
        raise UserError("direction=compose needs the language model's template: template=chatml or another.")
    if this_process().world_size > 1:
        raise UserError("direction=compose runs in one process; start it without torchrun.")
    if config.vision is None and not config.model:
        raise UserError("direction=compose needs a tower: vision=FOLDER of a CLIP model, or model=smollm2_llava.")
    for name, path in (("source", config.source), ("vision", config.vision)):
        if path is not None and not Path(path).exists():
            raise UserError(f"{name}={path}: no such file or folder.")


def _check_out(config: ConvertSettings) -> None:
    out = config.out
    if config.direction == "import":
        check_folder(out)
        if step_folder(out, 0).exists():
            raise UserError(f"{step_folder(out, 0)}: exists already. Choose another out= or remove it.")
        return
    check_unused(out)
    check_folder(out)
