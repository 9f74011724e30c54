"""A running training as the estimator sees it: the same counts of memory and operations as `scripts/estimate.py` makes."""

from __future__ import annotations

from nemo_mm_align.capacity.job import TrainingJob, Workload, job_of
from nemo_mm_align.model.config import LlavaConfig
from nemo_mm_align.training.settings import TrainSettings


def running_job(settings: TrainSettings, config: LlavaConfig, nodes: int, ranks_per_node: int) -> TrainingJob:
    """Return the job that these settings are on the ranks that were started.

    Args:
        config: sizes of the model that was opened, which count where the settings name others.
    """
    return job_of(
        settings.model,
        settings.recipe,
        settings.schema,
        config=config,
        parallel=settings.parallel,
        engine=settings.engine,
        workload=Workload(settings.model.max_length),
        nodes=nodes,
        gpus_per_node=ranks_per_node,
        keep_checkpoints=settings.checkpoint.keep,
    )
