"""A server's application around some routes, with limits that tests do not meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.types import ASGIApp

from nemo_mm_align.inference.engine import Figures
from nemo_mm_align.serving.app import AppParts, RunningEngine, make_app
from nemo_mm_align.serving.gate import Gate
from nemo_mm_align.serving.metrics import ServerMetrics
from nemo_mm_align.serving.settings import HttpLimits

LIMITS = HttpLimits(
    body_bytes=1 << 24,
    body_seconds=20,
    header_seconds=20,
    idle_seconds=20,
    keep_alive_seconds=20,
    request_seconds=60,
    connections=100,
)


@dataclass(frozen=True)
class Idle:
    """An engine with nothing to do, where a route needs none."""

    fault: BaseException | None = None

    @property
    def figures(self) -> Figures:
        """Nothing runs and nothing waits."""
        return Figures(0, 0, 0.0, 0, 0, 0, 0)


def application(
    routers: Sequence[APIRouter],
    engine: RunningEngine | None = None,
    gate: Gate | None = None,
    metrics: ServerMetrics | None = None,
) -> ASGIApp:
    """Return it, errors and all."""
    running = engine or Idle()
    return make_app(
        AppParts(
            engine=running,
            cards=list,
            gate=gate or Gate(100),
            metrics=metrics or ServerMetrics("model", lambda: running.figures, 1),
            routers=routers,
        )
    )
