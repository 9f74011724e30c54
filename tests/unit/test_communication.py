"""What the formula of communication says of a model whose numbers fit on paper."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nemo_mm_align.capacity.communication import Traffic, step_traffic, wire_bytes
from nemo_mm_align.capacity.job import TrainingJob, Workload
from nemo_mm_align.capacity.parameters import rank_parameters
from nemo_mm_align.model.config import (
    EngineConfig,
    LanguageConfig,
    LlavaConfig,
    LoRAConfig,
    ParallelConfig,
    VisionConfig,
)

CONFIG = LlavaConfig(LanguageConfig(2, 8, 16, 2, 20), VisionConfig(2, 4, 8, 2, 4, 2), image_token_id=19)
JOB = TrainingJob(
    config=CONFIG, parallel=ParallelConfig(2), engine=EngineConfig("fp32"), lora=None, method="sft",
    workload=Workload(13, 4), nodes=1, gpus_per_node=2, micro_batch_size=1, global_batch_size=3,
)  # fmt: skip
STATE = 12 * 8 * 4
"""Bytes of a row: 12 positions, hidden size 8, fp32."""
ENDS = STATE + 2 * 5 * 4 * 4 + 4 * 8 * 4 + 4 * 4 * 4 + 4 * 8 * 4 + 6 * 4 * 4
"""Embedding, a layer of the tower with its class token, projector, its gradient, logits' input, losses of 4 labels."""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {("tensor", "all-reduce"): 3 * (2 * 4 * STATE + ENDS)}),
        (
            {"lora": LoRAConfig(2, 4)},
            {("tensor", "all-reduce"): 3 * (2 * 4 * STATE + 2 * 7 * 12 * 2 * 4 + ENDS)},
        ),
        (
            {"lora": LoRAConfig(2, 4), "engine": EngineConfig("fp32", recompute="full")},
            {("tensor", "all-reduce"): 3 * (2 * 6 * STATE + 2 * 9 * 12 * 2 * 4 + ENDS)},
        ),
        (
            {"parallel": ParallelConfig(2, sequence_parallel=True)},
            {
                ("tensor", "all-gather"): 3 * (2 * 6 + 2) * STATE,
                ("tensor", "reduce-scatter"): 3 * 2 * 4 * STATE,
                ("tensor", "all-reduce"): 3 * ENDS + 5 * 8 * 4,  # norms
            },
        ),
        ({"parallel": ParallelConfig(1, 2)}, {("pipeline", "send"): 3 * STATE}),
    ],
)
def test_bytes_of_a_step(changes: dict, expected: Traffic) -> None:
    assert step_traffic(replace(JOB, **changes), 0) == expected


def test_gradients_are_summed_in_fp32_whatever_the_weights_are() -> None:
    job = replace(JOB, parallel=ParallelConfig(), engine=EngineConfig("bf16"), global_batch_size=2)
    trained = rank_parameters(job, 0).trained(job)
    plain, spread = (step_traffic(replace(job, distributed_optimizer=given), 0) for given in (False, True))
    assert plain == {("data", "all-reduce"): 4 * trained}
    assert spread == {("data", "reduce-scatter"): 4 * trained, ("data", "all-gather"): 2 * trained}
    assert (wire_bytes(plain, job), wire_bytes(spread, job)) == (4 * trained, 3 * trained)
