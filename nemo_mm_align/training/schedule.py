"""Micro batches through megatron-core's pipeline schedule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.objectives.objective import Reads
from nemo_mm_align.parallel import runtime
from nemo_mm_align.training.reading import forward_batch, read_batch


def run_schedule(
    model: Any, batches: Sequence[Batch], reads: Reads, loss_function: Any, forward_only: bool
) -> list[Any]:
    """Send micro batches through megatron-core's pipeline schedule.

    Args:
        model: a stage, or what wraps it for training.
        reads: what is read of the last stage's hidden states.
        loss_function: (reading, batch) -> what megatron-core's schedule expects on the last stage.

    Returns:
        On the last stage one report per micro batch, elsewhere an empty list.
    """
    stage: Llava = getattr(model, "module", model)

    def forward_step(iterator: Iterator[Batch], chunk: Any) -> tuple[Tensor, Any]:
        batch = next(iterator).to(runtime.device())
        return forward_batch(chunk, batch), lambda hidden_SBH: loss_function(
            read_batch(stage, hidden_SBH, batch, reads), batch
        )

    rows, length = batches[0].input_ids_BS.shape
    reports: list[Any] = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iter(batches),
        model=[model],
        num_microbatches=len(batches),
        seq_length=length,
        micro_batch_size=rows,
        forward_only=forward_only,
    )
    return reports
