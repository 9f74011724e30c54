"""The estimate of losses in chunks against what they hold in memory, with chunks of a few positions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nemo_mm_align.capacity import losses
from nemo_mm_align.capacity.job import TrainingJob, Workload
from nemo_mm_align.model import arithmetic, label_losses
from nemo_mm_align.model.config import EngineConfig, Levers
from tests.memory import PeakMemory
from tests.parallel.memory_worker import LORA, PLAIN

pytestmark = [pytest.mark.parallel, pytest.mark.usefixtures("process_group")]


def peaks(job: TrainingJob, distribution: bool = True) -> tuple[int, int]:
    """Bytes at the worst moments of the forward and of the backward pass, beside hidden states and weight."""
    language, dtype = job.config.language, torch.float32 if job.engine.precision == "fp32" else torch.bfloat16
    columns = job.config.padded_vocab_size(1)
    hidden_PH = torch.randn(job.labelled, language.hidden_size, dtype=dtype, requires_grad=True)
    weight_VH = torch.randn(columns, language.hidden_size, dtype=dtype, requires_grad=job.trains_language)
    labels_P = torch.arange(job.labelled) % language.vocab_size
    there = (hidden_PH, weight_VH, labels_P)
    with PeakMemory(there) as forward, torch.set_grad_enabled(distribution):
        told_P = label_losses.label_losses(*there, language.vocab_size, distribution)[0]
    with PeakMemory(there) as backward:
        if distribution:
            told_P.sum().backward()
    return forward.peak, backward.peak


@pytest.mark.parametrize("answer", [40, 96, 300])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [LORA, None], ids=["frozen", "trained"])
def test_chunks_take_what_is_estimated(
    lora: object, precision: str, answer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One, two and six chunks of the backward pass, the last as long as the others or one of many."""
    monkeypatch.setattr(arithmetic, "CHUNK_LOGITS", 1)
    engine = EngineConfig(precision, levers=Levers(losses=True))
    job = replace(PLAIN, lora=lora, engine=engine, workload=Workload(2 * answer, answer))  # type: ignore[arg-type]
    forward, backward = peaks(job)
    # What is measured has the gradient that a frozen layer keeps, and not the labelled hidden states themselves.
    assert losses.forward_workspace(job) - job.state_bytes == pytest.approx(forward, rel=0.05)
    if lora is None:
        assert losses.backward_workspace(job) == pytest.approx(backward, rel=0.05)
    assert losses.logits_without_gradients(job) == pytest.approx(peaks(job, distribution=False)[0], rel=0.1)
