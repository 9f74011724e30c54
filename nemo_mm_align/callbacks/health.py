"""A verdict in words on a finished alignment run: what its own curves say about whether it worked."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from nemo_mm_align.parallel import runtime
from nemo_mm_align.run_files import read_metrics

logger = logging.getLogger(__name__)

_TAIL = 0.2
_NOTABLE_REWARD = 0.5


def verdict(metrics: Sequence[dict[str, float]]) -> list[str]:
    """Return findings about a run, the worrying ones first marked with ``!``.

    Args:
        metrics: lines of a metrics file, oldest first; the first and the last fifth are compared.
    """
    size = max(1, int(len(metrics) * _TAIL))

    def change(name: str) -> tuple[float, float]:
        values = [line[name] for line in metrics]
        return sum(values[:size]) / size, sum(values[-size:]) / size

    if len(metrics) < 2:
        return ["too few steps for a verdict"]
    first, last = change("loss")
    falling = last < first
    findings = [f"{'' if falling else '! '}loss {first:.4f} -> {last:.4f}{'' if falling else ': it does not fall'}"]
    if "reward_margin" in metrics[0]:
        findings += _preference_findings(change)
    if "tokens_per_s" in metrics[-1]:
        findings.append(_speed(metrics))
    return sorted(findings, key=lambda text: not text.startswith("!"))


def _preference_findings(change: object) -> list[str]:
    assert callable(change)
    accuracy, margin = change("reward_accuracy")[1], change("reward_margin")[1]
    chosen = change("reward_chosen")[1]
    findings = [f"reward accuracy {accuracy:.2f}, margin {margin:.3f} at the end"]
    if accuracy <= 0.5:
        findings.append(
            "! reward accuracy is no better than chance: check the pairs, raise model.optim.lr or recipe.epochs"
        )
    if chosen < -_NOTABLE_REWARD:
        findings.append(
            f"! chosen answers became less likely than under the reference (reward {chosen:.2f}): common in DPO when it is "
            "small; if answers get worse, lower model.optim.lr, raise recipe.beta, or set recipe.sft_loss_weight"
        )
    return findings


def _speed(metrics: Sequence[dict[str, float]]) -> str:
    """Medians, which a slow first step and checkpoints do not move; lines of an older version have no speed."""

    def median(name: str) -> float | None:
        values = [line[name] for line in metrics if name in line]
        return statistics.median(values) if values else None

    mfu, peak = median("mfu"), max(line.get("peak_memory_gib", 0.0) for line in metrics)
    used = f", MFU {mfu:.0%}".replace("%", " %") if mfu is not None else ""
    return f"{median('tokens_per_s'):,.0f} tokens/s{used}, at most {peak:.1f} GiB on a rank (medians over the steps)"


class ReportHealth(Callback):
    """Logs the verdict when training ends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the metrics file and say what it shows."""
        if runtime.rank() == 0:
            for finding in verdict(read_metrics(self.path)):
                logger.log(logging.WARNING if finding.startswith("!") else logging.INFO, "%s", finding)
