"""Layout arithmetic of real training configurations, as the doctor composes and judges them."""

from __future__ import annotations

import pytest
from hydra import initialize_config_dir

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.preflight.job import Job, compose_training
from nemo_mm_align.preflight.layout import check_layout


@pytest.fixture
def compose(repository):
    """Compose a training of LLaVA-1.5-7B and return its job."""

    def job(*words: str, model: str = "llava15_7b") -> Job:
        with initialize_config_dir(str(repository / "conf"), version_base=None):
            return Job(training=compose_training(["recipe=dpo", f"model={model}", *words]))

    return job


def worst(job, world_size):
    """The most serious level of each title."""
    found = {}
    for finding in check_layout(job, world_size):
        found[finding.title] = max(found.get(finding.title, 0), finding.level)
    return {title: ("green", "amber", "red")[level] for title, level in found.items() if level}


TP2 = "model.tensor_model_parallel_size=2"
PP2 = "model.pipeline_model_parallel_size=2"


def test_a_layout_that_fits(compose):
    job = compose(TP2, PP2, "model.sequence_parallel=true", "precision=fp8_delayed")
    assert worst(job, 8) == {}
    details = {finding.title: finding.detail for finding in check_layout(job, 8)}
    assert details["ranks"] == "tensor 2 x pipeline 2 x data 2 = 8"
    assert details["batches"] == "global 128 = micro 1 x data 2 x 64 passes"
    assert details["model"] == "llava15_7b: layers per stage 16, 16; 16 heads per tensor rank"
    assert details["row length"].endswith("in multiples of 16")


@pytest.mark.parametrize(
    ("words", "world_size", "expected"),
    [
        ([TP2], 3, {"ranks": "red"}),
        (["+trainer.num_nodes=2", "+trainer.devices=8"], 8, {"ranks": "red"}),
        (["model.tensor_model_parallel_size=3"], 3, {"model": "red"}),
        (["model.pipeline_model_parallel_size=5"], 5, {"model": "red"}),
        (["model.sequence_parallel=true"], 1, {"model": "red"}),
        (["model.global_batch_size=100"], 8, {"batches": "red"}),
        ([PP2, "model.global_batch_size=2"], 2, {"pipeline": "amber"}),
        (["model.micro_batch_tokens=8192", "model.global_batch_size=7"], 8, {"batches": "red"}),
        (["model.micro_batch_tokens=8", "precision=fp8_tensorwise"], 1, {"batches": "red", "packed rows": "red"}),
        (["model.micro_batch_tokens=8192", "precision=fp8_delayed"], 8, {"batches": "red"}),
        (["model.micro_batch_tokens=576"], 1, {"packed rows": "red"}),
        (["model.micro_batch_tokens=1000"], 1, {"packed rows": "amber"}),
        (["model.max_length=5000"], 1, {"row length": "red"}),
        (["model.max_length=500"], 1, {"row length": "red"}),
        (
            ["model.max_length=4090", "model.language.max_position_embeddings=4090", "precision=fp8_delayed"],
            1,
            {"row length": "red"},
        ),
        (["precision=fp8_delayed", "model.language.ffn_hidden_size=11000"], 1, {"FP8 sizes": "red"}),
        (["precision=fp4"], 1, {"model": "red"}),
    ],
)
def test_layouts_that_do_not_fit(compose, words, world_size, expected):
    found = worst(compose(*words), world_size)
    assert expected.items() <= found.items()


def test_a_budget_of_positions_needs_no_whole_number_of_passes(compose):
    job = compose("model.micro_batch_tokens=8192", "model.global_batch_size=100")
    details = {finding.title: finding.detail for finding in check_layout(job, 8)}
    assert details["batches"] == "global 100 over data 8 by their work, micro batches of up to 8,192 positions"


def test_scales_of_one_replica_are_exchanged_with_nobody(compose):
    words = ["model.micro_batch_tokens=8192", "precision=fp8_delayed"]
    assert worst(compose(*words), 1) == {} and worst(compose(*words, TP2), 2) == {}
    detail = {finding.title: finding.detail for finding in check_layout(compose(*words), 2)}["batches"]
    assert (
        "precision=fp8_delayed: replicas exchange scales in every micro batch" in detail and "fp8_tensorwise" in detail
    )


def test_a_look_ahead_counts_the_ranks_of_the_experiment(compose):
    job = compose(TP2, "+trainer.num_nodes=2", "+trainer.devices=8")
    assert check_layout(job, 1)[0].detail == "tensor 2 x pipeline 1 x data 8 = 16"


def test_processes_per_node_alone_leave_the_number_of_nodes_open(compose):
    """As in training: what is null is whatever was started; a look ahead takes one node."""
    job = compose(TP2, "trainer.devices=8")
    assert worst(job, 16) == {} and check_layout(job, 1)[0].detail == "tensor 2 x pipeline 1 x data 4 = 8"


def test_open_values_stay_open(compose):
    job = compose("exp_manager.exp_dir=/results")
    assert job.value("data.train") is None and str(job.results) == "/results" and job.value("name") == "dpo"


def test_a_training_that_cannot_be_composed(compose):
    with pytest.raises(UserError, match="cannot be composed"):
        compose("model.no_such_key=1")
