"""Estimated memory and checkpoints against GPUs and disks, and a look ahead from a login node."""

from __future__ import annotations

import pytest
from hydra import initialize_config_dir

from nemo_mm_align.preflight.doctor import job_findings, node_findings
from nemo_mm_align.preflight.finding import Level
from nemo_mm_align.preflight.hardware import Gpu
from nemo_mm_align.preflight.job import Job, compose_training
from nemo_mm_align.preflight.memory import check_memory_and_disk
from nemo_mm_align.preflight.ranks import Ranks


@pytest.fixture
def compose(repository, tmp_path):
    """Compose a shipped experiment with results in a temporary folder."""

    def job(experiment: str, *words: str) -> Job:
        with initialize_config_dir(str(repository / "conf"), version_base=None):
            folder = f"exp_manager.exp_dir={tmp_path}"
            return Job(training=compose_training([f"experiment={experiment}", folder, *words]))

    return job


def gpu(gib: int) -> Gpu:
    return Gpu(0, f"{gib} GiB card", gib * 1024, 0, "550", 9.0, "Disabled", "Enabled", 0)


def of(findings, title):
    return next(finding for finding in findings if finding.title == title)


def test_the_same_run_on_small_and_large_gpus(compose):
    job = compose("dpo_llava15_13b_2x8")
    levels = {
        gib: of(check_memory_and_disk(job, Ranks(), [gpu(80), gpu(gib)], None), "memory per rank").level
        for gib in (80, 50, 24)
    }
    assert levels == {80: Level.GREEN, 50: Level.AMBER, 24: Level.RED}  # the smallest GPU counts; it needs 47 GiB


def test_without_a_gpu_a_type_can_be_named(compose):
    job = compose("dpo_llava15_13b_2x8")
    open_question = of(check_memory_and_disk(job, Ranks(), None, None), "memory per rank")
    assert open_question.level == Level.GREEN and "no GPU here" in open_question.detail
    assert of(check_memory_and_disk(job, Ranks(), None, "a100_40gb"), "memory per rank").level == Level.RED


def test_more_ranks_than_planned_are_reckoned_with(compose):
    """What really started counts: tensor parallelism over four ranks halves what two held."""
    job = compose("dpo_llava15_13b_2x8", "model.tensor_model_parallel_size=4")
    two = compose("dpo_llava15_13b_2x8")
    ranks = Ranks(0, 8, 0, 8, address=("127.0.0.1", 1))
    details = [of(check_memory_and_disk(each, ranks, [gpu(80)], None), "memory per rank").detail for each in (two, job)]
    needed = [float(detail.split()[0]) for detail in details]
    assert needed[1] < 0.7 * needed[0]


def test_checkpoints_are_held_against_the_disk(compose):
    job = compose("dpo_llava15_13b_2x8", "checkpoint.keep=100000")
    assert of(check_memory_and_disk(job, Ranks(), None, None), "disk for checkpoints").level == Level.RED


def test_what_cannot_be_estimated_is_said(compose):
    job = compose("dpo_llava15_13b_2x8", "model.global_batch_size=100")
    (finding,) = check_memory_and_disk(job, Ranks(), None, None)
    assert finding.level == Level.AMBER and "global_batch_size=100" in finding.detail


def test_a_look_ahead_from_a_login_node_asks_for_no_gpu(compose):
    job = compose("dpo_llava15_7b_2x8_fp8", "data.train=/nowhere.jsonl", "model.hf_path=/nowhere")
    node = node_findings(job, Ranks(), None)
    assert of(node, "GPUs").level == of(node, "kernels: TransformerEngine").level == Level.GREEN
    assert of(node, "data.train").level == of(node, "model.hf_path").level == Level.RED
    found = job_findings(job, Ranks(), None, "h100_80gb")
    assert of(found, "FP8 sizes").level == of(found, "ranks").level == Level.GREEN
    here = node_findings(job, Ranks(0, 16, 0, 8, address=("127.0.0.1", 1)), None)
    assert of(here, "GPUs").level == of(here, "kernels: TransformerEngine").level == Level.RED


def test_stages_that_do_not_train_are_spared_the_training_checks(compose):
    job = Job(stages=("sample",), training=compose("dpo_llava15_13b_2x8").training)
    assert {finding.title for finding in job_findings(job, Ranks(), None)} <= {"MPI"}
