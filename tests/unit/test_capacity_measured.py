"""The rough times against what one H200 took (docs/BENCHMARKS.md, "On a GPU")."""

from __future__ import annotations

import pytest

from nemo_mm_align.benchmarks.gpu.shapes import Rows, flops, job_of, lora_config, model_config
from nemo_mm_align.capacity.decoding import Answering, batch_seconds, forward_seconds, token_seconds
from nemo_mm_align.capacity.gpus import find_gpu
from nemo_mm_align.capacity.operations import Work, forward_flops
from nemo_mm_align.capacity.steptime import time_of_rows
from nemo_mm_align.model.config import EngineConfig, ParallelConfig

H200 = find_gpu("h200_141gb")
ONE = ParallelConfig()
SEVEN = model_config("7b")
PROMPT = 576 + 40
CONTEXT = PROMPT + 40  # halfway through 81 new tokens


def seconds_of(size: str, method: str, rows: Rows, lora: bool) -> tuple[float, float]:
    """Estimated seconds of a micro batch, and the operations that its MFU counts."""
    adapters = lora_config(size) if lora else None
    job = job_of(size, model_config(size), EngineConfig(precision="bf16"), adapters, method, rows, count=1)
    return time_of_rows(job, H200).total, flops(size, job)


@pytest.mark.parametrize(
    ("size", "method", "rows", "lora", "least", "most"),
    [
        ("7b", "dpo", Rows(2), True, 0.18, 0.18),
        ("7b", "dpo", Rows(4), True, 0.257, 0.31),
        ("7b", "dpo", Rows(8), True, 0.32, 0.32),
        ("7b", "dpo", Rows(4, shared=False), True, 0.38, 0.38),
        ("13b", "dpo", Rows(1), True, 0.122, 0.122),
        ("13b", "dpo", Rows(2), True, 0.313, 0.313),
        ("13b", "dpo", Rows(4), True, 0.359, 0.359),
        ("7b", "sft", Rows(4), True, 0.277, 0.277),
        ("7b", "steerlm", Rows(4), True, 0.312, 0.312),
        ("7b", "sft", Rows(4), False, 0.32, 0.42),
    ],
)
def test_training_is_within_a_third_of_the_measured_share(
    size: str, method: str, rows: Rows, lora: bool, least: float, most: float
) -> None:
    seconds, operations = seconds_of(size, method, rows, lora)
    share = operations / (seconds * H200.bf16_flops)
    assert least / (4 / 3) < share < most * 4 / 3


def test_one_pair_at_a_time_is_a_third_slower_than_reckoned() -> None:
    seconds, _ = seconds_of("7b", "dpo", Rows(1), lora=True)
    assert 1 < 0.843 / 2 / seconds < 4 / 3


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
