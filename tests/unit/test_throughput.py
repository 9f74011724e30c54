"""Tokens, operations and rates of training steps, against figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nemo_mm_align.callbacks.health import verdict
from nemo_mm_align.callbacks.health_series import Series
from nemo_mm_align.capacity.forward import ENOUGH_TOKENS, forward_bytes, samples_without_gradients
from nemo_mm_align.capacity.job import TrainingJob, Workload
from nemo_mm_align.capacity.memory import stage_memory
from nemo_mm_align.capacity.operations import Work, estimated_work, model_flops, stage_flops
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.model.config import (
    EngineConfig,
    LanguageConfig,
    LlavaConfig,
    LoRAConfig,
    ParallelConfig,
    VisionConfig,
)
from nemo_mm_align.schema.prompts import EncodedSequence
from nemo_mm_align.training.reference_passes import Passes, choose_passes
from nemo_mm_align.training.throughput import Throughput
from nemo_mm_align.training.work import work_of

SEVEN = LlavaConfig(
    LanguageConfig(32, 4096, 11008, 32, 32064), VisionConfig(24, 1024, 4096, 16, 336, 14), image_token_id=32000
)
N = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
"""Weights of the decoder's linear layers."""


def job(**changes: object) -> TrainingJob:
    values = dict(
        config=SEVEN, parallel=ParallelConfig(), engine=EngineConfig("bf16"), lora=LoRAConfig(), method="dpo",
        workload=Workload(2048), nodes=1, gpus_per_node=1, micro_batch_size=1, global_batch_size=16, shared_prefix=True,
    )  # fmt: skip
    return TrainingJob(**values | changes)  # type: ignore[arg-type]


def sample(prompt: list[int], *answers: list[int], images: int = 0) -> Sample:
    sequences = [EncodedSequence(prompt + ids, [False] * len(prompt) + [True] * len(ids)) for ids in answers]
    return Sample("s", [Path(f"{n}.png") for n in range(images)], sequences)


def test_work_of_a_single_answer() -> None:
    # 7 tokens make 6 positions, each sees itself and those before: 21 pairs
    assert work_of([sample([1, 2, 3, 4], [5, 6, 7], images=2)], shared_prefix=True) == Work(6, 21, 3, 2)


def test_a_shared_prefix_counts_once() -> None:
    pair = sample([1, 2, 3, 4], [5, 6, 7], [8, 9], images=1)
    # separately 6 and 5 positions
    assert work_of([pair], shared_prefix=False) == Work(11, 21 + 15, 5, 1)
    # 3 positions of the prefix (the prompt's last token belongs to the branches), branches of 3 and 2
    assert work_of([pair], shared_prefix=True) == Work(8, 6 + (3 * 3 + 6) + (3 * 2 + 3), 5, 1)
    assert work_of([pair, pair], shared_prefix=True).tokens == 16


def test_lora_counts_four_operations_per_weight_and_token_and_full_training_six() -> None:
    text = Work(tokens=1000, attended=0, labelled=0, images=0)
    adapters = LoRAConfig().num_parameters(SEVEN.language)
    assert model_flops(job(), text) == pytest.approx(1000 * (4 * N + 6 * adapters))
    assert model_flops(job(lora=None), text) == pytest.approx(1000 * 6 * N)


def test_attention_logits_and_the_tower_count_beside_the_weights() -> None:
    full = job(lora=None)
    assert model_flops(full, Work(0, 10, 0, 0)) == 3 * 4 * 10 * 4096 * 32
    assert model_flops(full, Work(0, 0, 10, 0)) == 6 * 10 * 4096 * 32064
    assert model_flops(job(), Work(0, 0, 10, 0)) == 4 * 10 * 4096 * 32064
    assert model_flops(full, Work(0, 0, 0, 1)) == 2 * SEVEN.vision.tokens_per_image * SEVEN.vision.num_parameters()


def test_what_is_computed_again_is_not_useful_work() -> None:
    again = job(engine=EngineConfig("bf16", recompute="full"))
    work = estimated_work(again)
    assert model_flops(again, work) == model_flops(job(), work)
    assert sum(stage_flops(again, 0, work, "full")) > 1.4 * model_flops(again, work)


def test_stages_add_up_to_the_model() -> None:
    split = job(parallel=ParallelConfig(pipeline_model_parallel_size=4, num_layers_in_first_pipeline_stage=5))
    work = Work(1000, 5000, 100, 1)
    assert model_flops(split, work) == pytest.approx(model_flops(job(), work), rel=1e-12)


def test_rates_of_a_step() -> None:
    times = iter([0.0, 10.0, 12.0, 16.0])
    speed = Throughput(job(), ranks=2, rate=989e12, clock=lambda: next(times))
    work = Work(tokens=64_000, attended=0, labelled=0, images=0)
    speed.start()  # at 10 s
    flops = model_flops(job(), work)
    first, second = speed.step_ended(work), speed.step_ended(work)
    assert first == {
        "seconds": 2.0,
        "tokens_per_s": 32_000.0,
        "tflops": pytest.approx(flops / 2 / 2 / 1e12),
        "mfu": pytest.approx(flops / 2 / 2 / 989e12),
    }
    assert (second["seconds"], second["tokens_per_s"]) == (4.0, 16_000.0)


def test_no_mfu_where_the_devices_rate_is_not_known() -> None:
    assert set(Throughput(job(), 1, None).step_ended(Work(1, 1, 1, 0))) == {"seconds", "tokens_per_s", "tflops"}


def speed(lines: list[dict[str, float]]) -> str:
    return next(finding.text for finding in verdict(Series(lines)).findings if finding.rule == "speed")


def test_the_runs_speed_stands_in_its_verdict() -> None:
    slow_start = [{"loss": 2.0, "seconds": 60.0, "tokens_per_s": 10.0, "mfu": 0.01, "peak_memory_gib": 40.0}]
    steps = [{"loss": 1.0, "seconds": 2.0, "tokens_per_s": 12345.0, "mfu": 0.31, "peak_memory_gib": 54.25}] * 4
    assert speed(slow_start + steps) == (
        "12,345 tokens/s, MFU 31 %, at most 54.2 GiB on a rank (medians over the steps)"
    )
    full = [line | {"packing_efficiency": 0.974} for line in steps]
    assert "MFU 31 %, 97 % of the computed positions filled, at most" in speed(full)
    without = [{key: value for key, value in line.items() if key != "mfu"} for line in slow_start + steps]
    assert speed(without) == "12,345 tokens/s, at most 54.2 GiB on a rank (medians over the steps)"


def test_reference_passes_take_what_training_will_need_anyway() -> None:
    lora = job()
    chosen = samples_without_gradients(lora, longest_row=1000)
    assert chosen == 16, "16,384 positions are enough"
    wider = replace(lora, micro_batch_size=chosen)
    training = stage_memory(lora, 0)
    assert forward_bytes(wider, 0) <= training.peak - training.weights - training.context
    assert samples_without_gradients(lora, longest_row=5000) == 2
    assert samples_without_gradients(replace(lora, micro_batch_size=64), longest_row=1000) == 64
    assert 16 * 1000 <= ENOUGH_TOKENS < 32 * 1000


def test_reference_passes_stay_small_where_training_saves_little() -> None:
    lean = job(engine=EngineConfig("bf16", recompute="full"), workload=Workload(4096, answer_tokens=2048))
    lean = replace(lean, parallel=ParallelConfig(pipeline_model_parallel_size=8), gpus_per_node=8)
    assert samples_without_gradients(lean, longest_row=1000) < samples_without_gradients(job(), longest_row=1000)


def test_passes_asked_for_are_taken_and_fill_a_pipeline() -> None:
    assert choose_passes(job(), 1000, asked=3) == Passes(3)
    staged = job(parallel=ParallelConfig(pipeline_model_parallel_size=2), gpus_per_node=2)
    assert choose_passes(staged, 1000, asked=2) == Passes(2, micro_batches=4)


def test_micro_batches_of_one_schedule_are_of_one_size() -> None:
    samples = [Sample(str(number)) for number in range(7)]
    groups = Passes(2, micro_batches=4).schedules(samples)
    ids = [[[sample.id for sample in part] for part in group] for group in groups]
    assert ids == [[["0", "1"], ["2", "3"], ["4", "5"]], [["6"]]]
    assert Passes(2).schedules(samples[:1]) == [[samples[:1]]]
