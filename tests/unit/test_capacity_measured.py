"""The rough times against what one H200 took (docs/BENCHMARKS.md, "On a GPU")."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nemo_mm_align.benchmarks.gpu.shapes import Rows, job_of, model_config
from nemo_mm_align.capacity.decoding import Answering, batch_seconds, forward_seconds, token_seconds
from nemo_mm_align.capacity.gpus import find_gpu
from nemo_mm_align.capacity.job import Workload
from nemo_mm_align.capacity.measured import Comparison, measured_steps
from nemo_mm_align.capacity.memory import stage_memory
from nemo_mm_align.capacity.micro_batch_time import gpu_seconds, host_seconds, stage_seconds, update_seconds
from nemo_mm_align.capacity.operations import Work, computed_flops, forward_flops
from nemo_mm_align.capacity.run import comparisons
from nemo_mm_align.core.units import GIB
from nemo_mm_align.model.config import EngineConfig, LanguageConfig, LlavaConfig, ParallelConfig, VisionConfig

H200 = find_gpu("h200_141gb")
ONE = ParallelConfig()
SEVEN = model_config("7b")
PROMPT = 576 + 40
CONTEXT = PROMPT + 40  # halfway through 81 new tokens


@pytest.fixture(scope="module")
def compared() -> list[Comparison]:
    """Every measured step, in the order of the file."""
    return comparisons()


def paced_by_the_host(found: Comparison) -> bool:
    return host_seconds(found.job, 0) > gpu_seconds(found.job, 0, H200)


def test_steps_that_the_gpu_paces_are_within_a_tenth_of_what_was_measured(compared: list[Comparison]) -> None:
    paced = [found for found in compared if not paced_by_the_host(found)]
    assert len(paced) == 10
    assert max(abs(found.error) for found in paced) < 0.12
    adapters_in_bf16 = [found for found in paced if found.job.lora and not found.job.fp8]
    assert len(adapters_in_bf16) == 5 and max(abs(found.error) for found in adapters_in_bf16) < 0.07


def test_steps_that_the_host_paces_are_within_a_fifth(compared: list[Comparison]) -> None:
    paced = [found for found in compared if paced_by_the_host(found)]
    assert len(paced) == 8
    assert max(abs(found.error) for found in paced) < 0.21  # one measurement differs from the next by as much


def test_the_share_of_the_rate_grows_with_the_tokens_of_a_micro_batch(compared: list[Comparison]) -> None:
    def shares(model: str) -> list[float]:
        chosen = [found for found in compared if found.job.config.name == model and found.job.has_shared_prefix]
        chosen = [found for found in chosen if found.job.lora and not found.job.fp8]
        return [sum(computed_flops(found.job, 0)) * 2 / found.estimated / H200.bf16_flops for found in chosen]

    assert shares("llava15_7b") == pytest.approx([0.096, 0.187, 0.302, 0.338], abs=0.002)
    assert shares("llava15_13b") == pytest.approx([0.144, 0.269, 0.362, 0.377], abs=0.002)


def test_a_micro_batch_by_hand() -> None:
    """No adapters, one layer, t = 1: products, attention, passes over memory and the gradient, then the host's part."""
    language = LanguageConfig(1, 64, 128, 4, 608)
    config = LlavaConfig(language, VisionConfig(3, 32, 64, 2, 28, 14), image_token_id=4)
    rows = Workload(11, answer_tokens=3, images_per_sample=0)
    plain = job_of("toy", config, EngineConfig(precision="bf16"), None, "sft", Rows(2), count=1)
    job = replace(plain, workload=rows)
    layer = 4 * 64 * 64 + 3 * 64 * 128
    products = 6 * 20 * layer + 3 * 2 * 6 * 64 * 608
    attention = 3 * 4 * (2 * 100 / 2) * 64
    kernels = (products / 0.756 + attention / 0.12) / 989e12 + 20 * 64 * 2 * 478 / (0.81 * 4.8e12)
    assert gpu_seconds(job, 0, H200) == pytest.approx(kernels)
    with_gradient = kernels + 1000 * 12 / (0.81 * 4.8e12)
    assert stage_seconds(job, 0, H200, trained=1000) == pytest.approx((with_gradient**4 + 0.008**4) ** 0.25)
    assert update_seconds(job, H200, trained=1000) == pytest.approx(1000 * 38 / (0.81 * 4.8e12))


def test_memory_is_within_a_hundredth_of_what_was_allocated(compared: list[Comparison]) -> None:
    for step, found in zip(measured_steps(), compared, strict=True):
        memory = stage_memory(found.job, 0)
        assert (memory.peak - memory.context) / GIB == pytest.approx(step.gib, rel=0.01)


@pytest.mark.parametrize(("rows", "least", "most"), [(1, 7.0, 7.0), (16, 9.7, 10.1), (64, 19.8, 20.9)])
def test_a_token_takes_what_was_measured(rows: int, least: float, most: float) -> None:
    milliseconds = 1000 * token_seconds(SEVEN, H200, ONE, rows, CONTEXT)
    assert 0.9 * least < milliseconds < 1.1 * most


@pytest.mark.parametrize(("rows", "least", "most"), [(1, 0.13, 0.13), (16, 0.30, 0.31), (64, 1.16, 1.2)])
def test_prompts_take_what_was_measured(rows: int, least: float, most: float) -> None:
    asked = Answering(rows=rows, prompt=PROMPT, images=1, answer=81, most=81)
    assert 0.9 * least < forward_seconds(SEVEN, H200, ONE, asked.prompts_work) < 1.1 * most


def test_weights_are_read_once_per_token_and_divided_by_tensor_parallelism() -> None:
    bytes_read = 2 * (32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32064 * 4096)
    alone = token_seconds(SEVEN, H200, ONE, rows=0, context=0)
    assert alone == pytest.approx(bytes_read / (0.81 * 4.8e12) + 32 * 0.095e-3)
    split = ParallelConfig(tensor_model_parallel_size=2)
    assert token_seconds(SEVEN, H200, split, 1, CONTEXT) == pytest.approx(32 * 1.4e-3), (
        "no graphs: launches set the pace"
    )
    large = token_seconds(SEVEN, H200, split, 2000, CONTEXT)
    assert large == pytest.approx((token_seconds(SEVEN, H200, ONE, 2000, CONTEXT) - 32 * 0.095e-3) / 2 + 32 * 0.095e-3)


def test_a_batch_lasts_as_long_as_its_longest_answer() -> None:
    asked = Answering(rows=16, prompt=PROMPT, images=1, answer=200, most=1024)
    assert asked.steps == 500
    step = token_seconds(SEVEN, H200, ONE, 16 * 200 / 500, PROMPT + 100)
    prompts = forward_seconds(SEVEN, H200, ONE, asked.prompts_work)
    assert batch_seconds(SEVEN, H200, ONE, asked) == pytest.approx(prompts + 500 * step)
    assert Answering(16, PROMPT, 1, 200, most=300).steps == 300


def test_a_pass_without_gradients_counts_each_matrix_once() -> None:
    toy = model_config(
        "toy"
    )  # 2 layers of width 64, feed-forward 128, 608 words; 2 computed layers of the tower, 4 patches
    layer = 4 * 64 * 64 + 3 * 64 * 128
    expected = 2 * 10 * 2 * layer + 4 * 50 * 64 * 2 + 2 * 3 * 64 * 608 + 2 * 1 * 4 * toy.vision.num_parameters()
    assert forward_flops(toy, Work(tokens=10, attended=50, labelled=3, images=1)) == expected
