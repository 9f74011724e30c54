"""A running training as the estimator sees it: the same counts of memory and operations as `scripts/estimate.py` makes."""

from __future__ import annotations

from nemo_mm_align.capacity.job import Job, Workload
from nemo_mm_align.model.config import LlavaConfig
from nemo_mm_align.training.settings import TrainSettings


def running_job(settings: TrainSettings, config: LlavaConfig, nodes: int, ranks_per_node: int) -> Job:
    """Return the job that these settings are on the ranks that were started.

    Args:
        config: sizes of the model that was opened, which count where the settings name others.
    """
    model = settings.model
    return Job(
        config=config,
        parallel=settings.parallel,
        engine=settings.engine,
        lora=model.lora,
        method=settings.recipe.name,
        workload=Workload(model.max_length),
        nodes=nodes,
        gpus_per_node=ranks_per_node,
        micro_batch_size=model.micro_batch_size,
        global_batch_size=model.global_batch_size,
        shared_prefix=settings.recipe.rows_shared,
        reads=settings.recipe.reads,
        distributed_optimizer=model.optim.use_distributed_optimizer,
        train_language=model.train.language,
        train_projector=model.train.projector,
        train_vision=model.train.vision,
        keep_checkpoints=settings.checkpoint.keep,
    )
