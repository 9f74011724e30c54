"""What both sides of a comparison have in common; known without the engine."""

from __future__ import annotations

from nemo_mm_align.parallel.optim_config import OptimConfig

SEED, BETA = 1234, 0.1
OPTIM = OptimConfig(lr=1e-5, projector_lr=None, schedule="constant", warmup_ratio=0.0)
