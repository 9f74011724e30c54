"""The estimator against what real models, optimizers and passes hold in memory, on a CPU."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nemo_mm_align.benchmarks.communication import named
from nemo_mm_align.capacity.activations import CPU_KERNELS, saved_tensors
from nemo_mm_align.capacity.communication import step_traffic
from nemo_mm_align.capacity.forward import forward_bytes
from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.capacity.memory import StageMemory, checkpoint_bytes, stage_memory
from tests.distributed import run_distributed
from tests.parallel.memory_worker import COMMUNICATING, JOBS

pytestmark = pytest.mark.parallel

Ranks = dict[int, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Ranks]:
    """World size -> rank -> job -> what was measured."""
    folder = tmp_path_factory.mktemp("memory")
    for world in JOBS:
        run_distributed("tests.parallel.memory_worker", world, folder)
    return {
        world: {rank: json.loads((folder / f"{world}-{rank}.json").read_text()) for rank in range(world)}
        for world in JOBS
    }


TOGETHER = {**JOBS[2], **COMMUNICATING[2]}
CASES = [(world, name, rank) for world, jobs in JOBS.items() for name in jobs for rank in range(world)]


def stage_of(job: TrainingJob, rank: int) -> int:
    return rank if job.parallel.pipeline_model_parallel_size > 1 else 0


@pytest.mark.parametrize("name", TOGETHER)
def test_what_is_communicated_is_what_the_formula_says(measured: dict[int, Ranks], name: str) -> None:
    for rank in range(2):
        assert measured[2][rank][name]["traffic"] == named(step_traffic(TOGETHER[name], stage_of(TOGETHER[name], rank)))


@pytest.mark.parametrize(("world", "name", "rank"), CASES)
def test_estimate_is_near_what_was_measured(measured: dict[int, Ranks], world: int, name: str, rank: int) -> None:
    job, found = JOBS[world][name], measured[world][rank][name]
    stage = stage_of(job, rank)
    expected: StageMemory = stage_memory(job, stage, CPU_KERNELS)
    assert found["parameters"] == expected.parameters.total
    assert found["trained"] == expected.trained
    assert found["weights"] == expected.weights
    assert expected.gradients == pytest.approx(found["gradients"], rel=0.02)
    assert expected.optimizer == pytest.approx(found["optimizer"], rel=0.02)
    assert 0.9 < forward_bytes(job, stage) / found["forward"] < 1.35  # rather too much: it says how much fits
    assert checkpoint_bytes(job) == pytest.approx(found["checkpoint"], rel=0.02)
    if job.engine.precision == "fp32":  # the CPU's norms compute bf16 rows in fp32, a GPU's do not
        saved = sum(saved_tensors(job, stage, CPU_KERNELS).values())
        assert saved == pytest.approx(found["saved"], rel=0.02)
        assert expected.activations + expected.workspace == pytest.approx(found["peak"], rel=0.1)
