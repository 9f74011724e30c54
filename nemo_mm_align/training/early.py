"""What can be known of a training before torch, NeMo and Megatron are imported: settings, paths, sizes, and who owns the run.

The slow imports take longer than all of this together; a wrong path or setting is said before them.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import UnsupportedInterpolationType

from nemo_mm_align.core import lock
from nemo_mm_align.core.outputs import folder_to_write
from nemo_mm_align.core.processes import this_process
from nemo_mm_align.core.run_files import OWNER_FILE
from nemo_mm_align.datasets.sources import check_present
from nemo_mm_align.model.arithmetic import check_started_ranks, check_training
from nemo_mm_align.parallel.source import ModelSource, source_settings
from nemo_mm_align.training.resume import checkpoint_to_resume
from nemo_mm_align.training.settings import TrainSettings, read_settings
from nemo_mm_align.training.watch_checks import check_watched

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
ANOTHER_RUN = "give another exp_manager.name"


def check_early(config: DictConfig) -> None:
    """Check all that `read_and_check` does, whether the run's folder can be written, and that no other process trains in it.

    Then say what will be trained. The folder is this process's from then on. Settings in terms of NeMo's own resolvers
    (``${multiply:...}``), which come with its import, are checked after that.

    Raises:
        UserError: what is wrong, with the remedy.
    """
    try:
        settings, source = read_and_check(config)
    except UnsupportedInterpolationType:
        return
    folder = settings.manager.folder
    folder_to_write(folder)
    checkpoint_to_resume(folder / CHECKPOINTS, settings.checkpoint.resume)
    if this_process().rank == 0 and settings.manager.resume_if_exists:  # else NeMo makes a new folder for the run
        lock.reserve(owner_file(folder), folder, ANOTHER_RUN)
    if this_process().rank == 0:
        logger.info("%s", outline(settings, source))


def outline(settings: TrainSettings, source: ModelSource) -> str:
    """Return what a run reads, trains and writes, in a line: all that is known without its records."""
    model, parallel, ranks, folder = (
        settings.model,
        settings.parallel,
        this_process().world_size,
        settings.manager.folder,
    )
    trained = "adapters" if model.lora is not None else "weights"
    tokens = model.micro_batch_tokens
    share = (
        f"{model.micro_batch_size} a micro batch" if tokens is None else f"micro batches of up to {tokens:,} positions"
    )
    return (
        f"{settings.recipe.name}: trains {trained} of {source.folder} ({source.config.num_parameters():,} parameters) on "
        f"{settings.source.path}; {model.global_batch_size} samples a step, {share}; tensor "
        f"parallel {parallel.tensor_model_parallel_size}, pipeline {parallel.pipeline_model_parallel_size}, data "
        f"{parallel.data_parallel_size(ranks)} on {ranks} {'rank' if ranks == 1 else 'ranks'}; results in {folder}"
    )


def read_and_check(config: DictConfig) -> tuple[TrainSettings, ModelSource]:
    """Read conf/train.yaml, composed, and find the model it names; sizes, layout and batches are checked against each other.

    Raises:
        UserError: an unknown key, a value out of range, a file or folder that is not there, or numbers that do not fit.
    """
    settings = read_settings(config)
    source = source_settings(config.model)
    source.refuse_adapters()
    check_started_ranks(asdict(settings.trainer), this_process().world_size)
    check_training(
        source.config,
        settings.parallel,
        settings.engine,
        world_size=this_process().world_size,
        micro_batch_size=settings.model.micro_batch_size,
        micro_batch_tokens=settings.model.micro_batch_tokens,
        global_batch_size=settings.model.global_batch_size,
        max_length=settings.plan.max_length,
    )
    check_present(settings.source)
    check_watched(settings)
    return settings, source


def owner_file(folder: Path) -> Path:
    """Return the lock file of a run's folder; its own folder is made."""
    path = folder / OWNER_FILE
    folder_to_write(path.parent)
    return path
