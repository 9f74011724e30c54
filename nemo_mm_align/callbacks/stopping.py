"""Ends training after the step in which any rank was asked to stop."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nemo_mm_align.parallel.stopping import StopRequest

logger = logging.getLogger(__name__)


class StopOnRequest(Callback):
    """Shares the request among the ranks after every step; `requested` is the same on all of them."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop
        self.requested = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals back from Lightning, which would end the run at the first one, without a checkpoint."""
        self.stop.listen()
        trainer._signal_connector.received_sigterm = False  # one that came meanwhile has reached `stop` as well

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *unused: Any) -> None:
        """End the run after this step if any rank was asked."""
        if not self.requested and self.stop.agreed():
            self.requested = True
            trainer.should_stop = True
            logger.warning("asked to stop: saving after step %d and ending", trainer.global_step)
