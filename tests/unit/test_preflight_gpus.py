"""GPUs, what torch sees of them, and the sum over all ranks."""

from __future__ import annotations

import pytest

from nemo_mm_align.preflight import collectives, hardware
from nemo_mm_align.preflight.finding import Level

H100 = "0, NVIDIA H100 80GB HBM3, 81559, 4, 550.54, 9.0, Disabled, Enabled, 0"
A100 = "1, NVIDIA A100-SXM4-80GB, 81920, 30000, 550.54, 8.0, Enabled, Disabled, 3"


def test_gpus_in_order():
    (finding,) = hardware.check_gpus(hardware.parse_smi(H100), 1, "fp8_delayed", True, {})
    assert finding.level == Level.GREEN
    assert "NVIDIA H100 80GB HBM3, 80 GiB, driver 550.54, compute capability 9.0, FP8 yes" in finding.detail


def test_every_trouble_with_gpus():
    gpus = hardware.parse_smi(f"{H100}\n{A100}\n")
    found = hardware.check_gpus(gpus, 4, "fp8_delayed", True, {"CUDA_VISIBLE_DEVICES": "0"})
    assert {finding.title: finding.level.name for finding in found} == {
        "GPUs": "AMBER",  # unlike ones
        "GPU memory errors": "RED",
        "GPUs in use": "AMBER",
        "MIG": "AMBER",
        "ECC": "AMBER",
        "GPUs per rank": "RED",
        "FP8": "RED",
    }


@pytest.mark.parametrize(
    ("variables", "level"), [({"SLURM_STEP_ID": "0"}, "GREEN"), ({"RANK": "0"}, "RED"), ({}, "RED")]
)
def test_one_visible_gpu_per_rank(variables, level):
    """Slurm's tasks may each see a GPU of their own; torchrun's ranks would share it."""
    *_, finding = hardware.check_gpus(hardware.parse_smi(H100), 8, "bf16", True, variables)
    assert (finding.title, finding.level.name) == ("GPUs per rank", level)


def test_a_gpu_without_ecc_and_mig():
    (gpu,) = hardware.parse_smi("0, Quadro, 8192, 10, 550, 7.5, [N/A], [N/A], [N/A]")
    assert (gpu.ecc_errors, gpu.mig, gpu.fp8) == (0, "[N/A]", False)


@pytest.mark.parametrize(
    ("precision", "wanted", "variables", "expected"),
    [
        ("fp32", False, {}, "GREEN"),
        ("bf16", True, {}, "AMBER"),
        ("fp8_delayed", True, {}, "RED"),
        ("fp32", False, {"SLURM_JOB_GPUS": "0,1"}, "RED"),
    ],
)
def test_no_gpu(precision, wanted, variables, expected):
    (finding,) = hardware.check_gpus(None, 1, precision, wanted, variables)
    assert finding.level.name == expected


@pytest.mark.parametrize(
    ("build", "usable", "there", "expected"),
    [(None, 0, 0, "GREEN"), ("12.9", 8, 8, "GREEN"), (None, 0, 8, "RED"), ("12.9", 0, 8, "RED")],
)
def test_torch_sees_the_gpus(build, usable, there, expected):
    finding = collectives.check_torch({"torch": "2.10", "cuda_build": build, "gpus": usable}, there)
    assert finding.level.name == expected


def test_backend():
    with_gpu, without = {"gpus": 8}, {"gpus": 0}
    assert collectives.choose_backend({0: with_gpu, 1: with_gpu}) == "nccl"
    assert collectives.choose_backend({0: without, 1: without}) == "gloo"
    assert collectives.choose_backend({0: with_gpu, 1: without}) is None


def test_outcomes_of_the_all_reduce():
    good = {"error": None, "setup_s": 1.0, "latency_s": 1e-4, "gb_per_s": 300.0}
    assert collectives.judge_outcomes({0: good, 1: good}, 2, "nccl").level == Level.GREEN
    assert collectives.judge_outcomes({0: good, 1: {**good, "gb_per_s": 0.5}}, 2, "nccl").level == Level.AMBER
    broken = collectives.judge_outcomes({0: good, 1: {**good, "error": "sum over ranks is 4 and not 6"}}, 3, "nccl")
    assert broken.level == Level.RED
    assert "sum over ranks is 4 and not 6 (ranks 1)" in broken.detail and "no report from ranks 2" in broken.detail
