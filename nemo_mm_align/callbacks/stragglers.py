"""Ranks that slow the run down, named with their node.

Ranks wait for each other within a step, so that its duration is the same on all of them and tells nothing. What a rank does
alone is measured instead: the time between steps (data, images, logging) and a fixed matrix product on its device.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from nemo_mm_align.core.processes import node_name
from nemo_mm_align.parallel import runtime

logger = logging.getLogger(__name__)

_MEASURES = ("step_s", "between_steps_s", "probe_s")
_ALONE = {
    "between_steps_s": ("between steps (data, logging)", 0.02),
    "probe_s": ("for a fixed matrix product", 0.002),
}
_PROBE_SIZE_CPU, _PROBE_SIZE_GPU, _PROBE_REPEATS = 256, 4096, 3


def slow_ranks(seconds: Sequence[float], ratio: float, floor_s: float) -> list[int]:
    """Return the ranks that take more than `ratio` times the (low) median, and more than `floor_s` above it."""
    middle = statistics.median_low(seconds)
    return [rank for rank, value in enumerate(seconds) if value > ratio * middle and value > middle + floor_s]


def probe_seconds() -> float:
    """Time a fixed matrix product on this rank's device; the best of a few."""
    device = runtime.device()
    size = _PROBE_SIZE_GPU if device.type == "cuda" else _PROBE_SIZE_CPU
    matrix = torch.full((size, size), 0.5, device=device)

    def measure() -> float:
        start = time.perf_counter()
        float(torch.mm(matrix, matrix)[0, 0])  # waits for the device
        return time.perf_counter() - start

    return min(measure() for _ in range(_PROBE_REPEATS))


class ReportStragglers(Callback):
    """Gathers each rank's times every n steps, appends them to `path` and warns about slow ranks; stands last in the list.

    Args:
        every_n_steps: distance between reports.
        ratio: above this multiple of the median a rank is slow.
        path: JSON lines: step, and each measure as a list by rank, in seconds per step.
        probe: how the device is measured.
    """

    def __init__(
        self, every_n_steps: int, ratio: float, path: Path, probe: Callable[[], float] = probe_seconds
    ) -> None:
        self.every, self.ratio, self.path, self.probe = every_n_steps, ratio, path, probe
        self._nodes: list[str] = []
        self._restart()

    def _restart(self) -> None:
        self._began = self._ended = time.monotonic()
        self._between = 0.0
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn where the ranks are."""
        self._nodes = [""] * runtime.world_size()
        torch.distributed.all_gather_object(self._nodes, node_name())
        self._restart()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *unused: Any) -> None:
        """The data is there."""
        self._between += time.monotonic() - self._ended

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *unused: Any) -> None:
        """Count the step; report if it is one of those."""
        self._ended = time.monotonic()
        self._steps += 1
        if self._steps >= self.every:
            self._report(trainer.global_step)
            self._restart()

    def _report(self, step: int) -> None:
        own = ((self._ended - self._began) / self._steps, self._between / self._steps, self.probe())
        own_M = torch.tensor(own, dtype=torch.float64, device=runtime.device())
        all_RM = [torch.zeros_like(own_M) for _ in range(runtime.world_size())]
        torch.distributed.all_gather(all_RM, own_M)
        if runtime.rank() == 0:
            columns = torch.stack(all_RM).T.tolist()
            self._write(step, dict(zip(_MEASURES, columns, strict=True)))

    def _write(self, step: int, seconds: dict[str, list[float]]) -> None:
        line = {"step": step} | {name: [round(value, 6) for value in values] for name, values in seconds.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        for name, (doing, floor_s) in _ALONE.items():
            for rank in slow_ranks(seconds[name], self.ratio, floor_s):
                logger.warning(
                    "step %d: rank %d on %s is slow: %.3f s %s, median %.3f s; the others wait for it",
                    step,
                    rank,
                    self._nodes[rank],
                    seconds[name][rank],
                    doing,
                    statistics.median_low(seconds[name]),
                )
