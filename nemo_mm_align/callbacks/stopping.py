"""Stopping on request: SIGTERM or SIGUSR1 sets a flag, the flag is shared by all ranks, the run saves and ends.

NeMo's own preemption callback restores the default handler at the first signal; under torchrun the second one, which the
agent forwards, then kills the rank before it has saved. This flag may be set any number of times.
"""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from nemo_mm_align.parallel import runtime

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopOnSignal(Callback):
    """Sets `requested` on all ranks after the step in which any rank was signalled."""

    def __init__(self) -> None:
        self.requested = False
        self._signalled = False
        self._previous: dict[int, Any] = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers, after Lightning's own."""
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *unused: Any) -> None:
        """Share the flag and end the run after this step if any rank has it."""
        flag = torch.tensor(float(self._signalled), device=runtime.device())
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        if float(flag) and not self.requested:
            self.requested = True
            trainer.should_stop = True
            logger.warning("asked to stop: saving after step %d and ending", trainer.global_step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the former handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
