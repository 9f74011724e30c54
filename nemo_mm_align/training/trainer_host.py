"""What Lightning's Trainer and NeMo's experiment manager see of a training run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig

from nemo_mm_align.core.run_files import STOP_FILE
from nemo_mm_align.core.units import GIB
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.stopping import StopRequest
from nemo_mm_align.parallel.strategy import MegatronCoreStrategy
from nemo_mm_align.training.data import StepBatches
from nemo_mm_align.training.step import TrainingEngine
from nemo_mm_align.training.throughput import Throughput
from nemo_mm_align.training.wandb_run import give_run_id, note_run

_TALKATIVE = ("megatron.core.distributed", "megatron.core.optimizer", "megatron.core.optimizer_param_scheduler")
"""They list every trainable tensor, hundreds of lines."""


_SHOWN = ("loss", "tokens_per_s", "mfu", "peak_memory_gib")
"""Metrics in the progress bar."""


class AlignmentModule(pl.LightningModule):
    """What Lightning sees of the engine: one training step per batch of micro batches."""

    def __init__(self, engine: TrainingEngine, throughput: Throughput) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._throughput = throughput
        self._engine = [engine]  # in a list: not a submodule, Lightning must not move, save or count it

    def on_train_start(self) -> None:
        """The first step begins."""
        self._throughput.start()

    def training_step(self, step: StepBatches, batch_idx: int) -> dict[str, Any]:
        """Run one optimizer step and log its metrics."""
        result = self._engine[0].step(step.batches, self.trainer.global_step, step.mismatched)
        speed = self._throughput.step_ended(step.work)
        metrics = result.metrics | speed | {"peak_memory_gib": result.peak_bytes / GIB}
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()
        for name, value in metrics.items():
            self.log(name, value, prog_bar=name in _SHOWN, rank_zero_only=True, batch_size=1)
        return {"loss": torch.tensor(metrics["loss"]), "metrics": metrics}

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Leave it to the engine, which moves one micro batch at a time."""
        return batch

    def configure_optimizers(self) -> None:
        """The optimizer is megatron-core's."""


def open_host(
    config: DictConfig, folder: Path, strategy: MegatronCoreStrategy, stop: StopRequest
) -> tuple[pl.Trainer, Path]:
    """Return the Trainer and the run's folder, in which the experiment manager has opened its loggers.

    Args:
        config: conf/train.yaml, composed.
        folder: where the run is expected to be.
        stop: is given the run's stop file to look at.
    """
    gpu = torch.cuda.is_available()
    options = dict(config.trainer)
    for name in ("max_steps", "num_nodes", "devices"):
        options.pop(name, None)
    trainer = pl.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=min(runtime.local_world_size(), torch.cuda.device_count()) if gpu else runtime.local_world_size(),
        num_nodes=max(1, runtime.world_size() // runtime.local_world_size()),
        strategy=strategy,
        logger=False,  # exp_manager brings the loggers
        enable_checkpointing=False,
        use_distributed_sampler=False,
        enable_model_summary=False,
        max_epochs=1,
        **options,
    )
    logging.getLogger("nemo_logger").addFilter(_not_of_checkpoints)
    aside = set(folder.glob(f"run_*/{STOP_FILE}"))
    if runtime.rank() == 0:
        give_run_id(config.exp_manager, folder)
    folder = Path(exp_manager(trainer, config.exp_manager) or folder)
    if runtime.rank() == 0:
        note_run(folder, trainer.loggers)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    if stop.file is None:
        stop.file = folder / STOP_FILE
    if set(folder.glob(f"run_*/{STOP_FILE}")) - aside:
        stop.request()  # exp_manager has just set the stop file aside with the files of the run before
    return trainer, folder


def _not_of_checkpoints(record: logging.LogRecord) -> bool:
    """NeMo looks for checkpoints of its own and says "Training from scratch" where ours goes on."""
    return "There were no checkpoints found" not in record.getMessage()
