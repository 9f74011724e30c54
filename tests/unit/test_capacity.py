"""Arithmetic of the estimator against figures worked out by hand, and the layouts that it suggests."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_mm_align.capacity.activations import CPU_KERNELS, LayerActivations, stage_activations
from nemo_mm_align.capacity.document import MODELS
from nemo_mm_align.capacity.estimate import estimate, estimate_job
from nemo_mm_align.capacity.gpus import GPUS
from nemo_mm_align.capacity.job import TrainingJob, Workload, read_job
from nemo_mm_align.capacity.memory import checkpoint_bytes, key_value_bytes, stage_memory
from nemo_mm_align.capacity.parameters import rank_parameters
from nemo_mm_align.capacity.report import render
from nemo_mm_align.capacity.run import compose_training, document_text
from nemo_mm_align.capacity.steptime import step_time
from nemo_mm_align.capacity.suggest import balance_stages, describe, suggest
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.units import GIB
from nemo_mm_align.model.config import EngineConfig, Levers, LoRAConfig, ParallelConfig
from nemo_mm_align.objectives.objective import Reads
from tests.paper_job import paper_dpo, preset

H100 = GPUS["h100_80gb"]
LORA_13B, PROJECTOR_13B = 500_695_040, 31_467_520


@pytest.fixture
def job(repository: Path) -> TrainingJob:
    """DPO of the 13B with LoRA as the paper has it."""
    return paper_dpo(repository)


def over_all_ranks(job: TrainingJob, count: str) -> int:
    """Sum over stages and tensor ranks, of which each holds its own part of what is split."""
    stages = range(job.parallel.pipeline_model_parallel_size)
    return (
        sum(getattr(rank_parameters(job, stage), count) for stage in stages) * job.parallel.tensor_model_parallel_size
    )


def test_parameters_of_the_paper(job: TrainingJob) -> None:
    parameters = rank_parameters(job, 0)
    assert (parameters.adapters, parameters.projector) == (LORA_13B, PROJECTOR_13B)
    assert parameters.trained(job) == LORA_13B + PROJECTOR_13B
    assert parameters.total == job.config.num_parameters() + LORA_13B


@pytest.mark.parametrize("name", ["llava15_7b", "llava15_13b", "llava_llama2_70b", "smollm2_llava", "mini"])
def test_one_rank_holds_the_whole_model(job: TrainingJob, repository: Path, name: str) -> None:
    config = preset(repository, name)
    whole = replace(job, config=config, lora=None)
    assert rank_parameters(whole, 0).total == config.num_parameters()


def test_70b_is_llama_2_70b(repository: Path) -> None:
    # published: 68,976,648,192 with 32,000 tokens; two matrices have 64 rows more here
    assert preset(repository, "llava_llama2_70b").language.num_parameters() == 68_976_648_192 + 2 * 64 * 8192


def test_stages_and_tied_matrices_add_up(job: TrainingJob, repository: Path) -> None:
    layout = ParallelConfig(pipeline_model_parallel_size=4, num_layers_in_first_pipeline_stage=7)
    split = replace(job, parallel=layout, lora=None)
    assert over_all_ranks(split, "total") == job.config.num_parameters()
    tied = replace(split, config=preset(repository, "mini"), parallel=ParallelConfig(pipeline_model_parallel_size=3))
    table = tied.config.language.vocab_size * tied.config.language.hidden_size
    assert over_all_ranks(tied, "total") == tied.config.num_parameters() + table


def test_tensor_parallel_pads_the_vocabulary_and_copies_what_is_not_split(job: TrainingJob) -> None:
    parallel = ParallelConfig(tensor_model_parallel_size=4)
    config = replace(job.config, language=replace(job.config.language, vocab_size=32065))
    split = replace(job, config=config, parallel=parallel, lora=None)
    assert rank_parameters(split, 0).embedding == 8017 * 5120
    norms = 40 * 2 * 5120 + 5120
    layer = (config.language.num_parameters() - 2 * 32065 * 5120 - norms) // 4
    assert rank_parameters(split, 0).decoder == layer + norms


def test_optimizer_states_of_13b(job: TrainingJob) -> None:
    full = replace(job, lora=None)
    trained = full.config.language.num_parameters() + PROJECTOR_13B
    whole = stage_memory(full, 0)
    assert (whole.gradients, whole.optimizer) == (4.0 * trained, 12.0 * trained)
    assert stage_memory(replace(full, engine=EngineConfig("fp32")), 0).optimizer == 8.0 * trained
    assert stage_memory(replace(full, distributed_optimizer=True), 0).optimizer == 12.0 * trained / 8


def test_checkpoint_holds_adapters_projector_and_moments(job: TrainingJob) -> None:
    assert checkpoint_bytes(job) == 14.0 * (LORA_13B + PROJECTOR_13B)


def test_rows_of_shared_prefixes(job: TrainingJob) -> None:
    assert (job.rows, job.row_length, job.labelled, job.images) == (1, 2999 + 1024, 2048, 1)
    apart = replace(job, shared_prefix=False)
    assert (apart.rows, apart.row_length, apart.labelled) == (2, 2999, 2048)
    eights = replace(apart, engine=EngineConfig("fp8_tensorwise"))
    assert eights.with_layout(tensor_model_parallel_size=2, sequence_parallel=True).row_length == 3008


def test_a_head_is_on_the_last_stage_and_reads_every_answer(job: TrainingJob, repository: Path) -> None:
    rated = replace(job, method="attribute_model", workload=Workload(2048), reads=Reads(hidden="last"), outputs=5)
    assert (rated.sequences, rated.rows, rated.row_length, rated.labelled) == (4, 1, 2048 + 3 * 1024, 0)
    split = rated.with_layout(pipeline_model_parallel_size=2)
    assert [rank_parameters(split, stage).head for stage in (0, 1)] == [0, 5 * 5120]
    assert rank_parameters(rated, 0).trained(rated) == LORA_13B + PROJECTOR_13B + 5 * 5120
    assert checkpoint_bytes(rated) == 14.0 * (LORA_13B + PROJECTOR_13B + 5 * 5120)
    full = replace(rated, lora=None)
    assert rank_parameters(full, 0).trained(full) == rank_parameters(full, 0).total - full.config.num_parameters() + (
        full.config.language.num_parameters() - 32064 * 5120 + PROJECTOR_13B
    ), "nobody reads the output layer"
    values = compose_training(["recipe=attribute_model", "model=llava15_7b"])
    found = read_job(values, 1, 8)
    assert "; 4 answers share their prompt" in render(estimate_job(found, H100))
    assert (found.outputs, found.reads) == (5, Reads(hidden="last"))


def test_micro_batches_in_flight(job: TrainingJob) -> None:
    split = job.with_layout(pipeline_model_parallel_size=4)
    assert [stage_memory(split, stage).in_flight for stage in range(4)] == [4, 3, 2, 1]
    few = replace(split, global_batch_size=2 * split.data_parallel_size)
    assert [stage_memory(few, stage).in_flight for stage in range(4)] == [2, 2, 2, 1]


def test_recomputation_leaves_one_hidden_state_per_layer(job: TrainingJob) -> None:
    full = replace(job, engine=EngineConfig("bf16", recompute="full"))
    assert stage_activations(full, 0)["decoder layers"] == 40 * 4023 * 5120 * 2
    assert stage_activations(job, 0)["decoder layers"] > 20 * 40 * 4023 * 5120 * 2


def test_sequence_parallel_divides_what_is_kept_whole_otherwise(job: TrainingJob) -> None:
    split = job.with_layout(tensor_model_parallel_size=2)
    apart = split.with_layout(sequence_parallel=True)
    saved = [LayerActivations(one, CPU_KERNELS).all() for one in (split, apart)]
    ratio = saved[0]["first norm input"] / saved[1]["first norm input"]
    assert ratio == pytest.approx(2, rel=1e-3)  # up to the padding of rows to a multiple of TP
    assert saved[0]["queries"] == pytest.approx(saved[1]["queries"], rel=1e-3)


def test_scores_of_unfused_attention(job: TrainingJob) -> None:
    kept = LayerActivations(replace(job, fused_attention=False), CPU_KERNELS).attention_kernel()
    assert kept["attention scores"] == 2 * 40 * 4023**2 * 2


def test_keys_and_values_of_grouped_heads(job: TrainingJob, repository: Path) -> None:
    grouped = replace(job, config=preset(repository, "llava_llama2_70b"))
    assert key_value_bytes(grouped, 0, rows=4, length=100) == 80 * 2 * 4 * 8 * 100 * 128 * 2
    halves = grouped.with_layout(tensor_model_parallel_size=2, pipeline_model_parallel_size=2)
    assert key_value_bytes(halves, 0, rows=4, length=100) == 80 * 2 * 4 * 8 * 100 * 128 * 2 / 4


def test_step_flops_and_bubble(job: TrainingJob) -> None:
    full = replace(job, lora=None, method="sft", workload=Workload(2048))
    tokens = 128 * (576 + 60 + 200 - 1)  # rows of usual length
    linear = 6 * tokens * (full.config.language.num_parameters() - 2 * 32064 * 5120 - 81 * 5120)
    assert step_time(full, H100).flops == pytest.approx(linear, rel=0.1)  # attention, logits and tower on top
    split = full.with_layout(pipeline_model_parallel_size=4)
    time = step_time(split, H100)
    assert time.bubble / (time.compute + time.pipeline) == pytest.approx(3 / split.micro_batches)


def test_the_host_sets_the_pace_of_small_micro_batches(job: TrainingJob) -> None:
    small = replace(job, config=replace(job.config, language=replace(job.config.language, num_layers=32)))
    times = {rows: step_time(replace(small, micro_batch_size=rows), H100).compute / 128 for rows in (1, 2, 4, 8)}
    assert times[1] * 8 == pytest.approx(32 * 0.010, rel=0.02), "hardly more per micro batch than the launches"
    assert times[2] == pytest.approx(times[1] / 2, rel=0.15)
    assert times[4] > 0.6 * times[2] and times[8] > 0.85 * times[4], "from there on the GPU does"
    fp8 = replace(small, engine=EngineConfig("fp8_tensorwise"))
    assert step_time(fp8, H100).compute == pytest.approx(1.19 * 128 * times[1], rel=0.02)


def test_time_goes_by_usual_rows_and_memory_by_the_longest(job: TrainingJob) -> None:
    assert (job.usual.row_length, job.row_length) == (576 + 260 - 1 + 200, 2999 + 1024)
    assert step_time(replace(job, workload=Workload(1500)), H100) == step_time(job, H100)
    short = replace(job, workload=Workload(700, answer_tokens=50))
    assert (short.usual.workload, stage_memory(short, 0).peak < stage_memory(job, 0).peak) == (short.workload, True)


def test_suggests_the_least_splitting_that_is_quick(job: TrainingJob) -> None:
    found = suggest(job, H100)
    assert describe(found.job) == "TP1 DP8, micro batch 4, full recomputation"
    assert found.estimate.peak <= 0.9 * H100.memory
    assert "one GPU holds the model" in suggest(job, GPUS["h200_141gb"]).reason


@pytest.mark.parametrize(("nodes", "gpu"), [(2, "a100_40gb"), (4, "h100_80gb"), (16, "b200_180gb")])
def test_suggested_layouts_are_possible(job: TrainingJob, repository: Path, nodes: int, gpu: str) -> None:
    for name in ("llava15_7b", "llava15_13b"):
        for lora in (LoRAConfig(), None):
            asked = replace(job, config=preset(repository, name), nodes=nodes, lora=lora)
            chosen = suggest(asked, GPUS[gpu]).job
            chosen.check()
            assert estimate_job(chosen, GPUS[gpu]).fits
            assert chosen.parallel.tensor_model_parallel_size <= GPUS[gpu].per_node


def test_a_busy_tower_takes_layers_from_its_stage(job: TrainingJob, repository: Path) -> None:
    short = replace(job, config=preset(repository, "llava15_7b"), lora=None, method="sft", workload=Workload(600))
    assert short.config.layers_per_stage(balance_stages(short, 4)) == [8, 8, 8, 8]
    trained = replace(short, train_vision=True)
    assert trained.config.layers_per_stage(balance_stages(trained, 4)) == [7, 9, 9, 7]
    thirty = replace(short, config=preset(repository, "smollm2_llava"))
    assert sum(thirty.config.layers_per_stage(balance_stages(thirty, 4))) == 30


def test_says_what_is_missing(job: TrainingJob) -> None:
    full = replace(job, lora=None, gpus_per_node=1)
    with pytest.raises(UserError, match=r"223\.\d GiB per GPU, .* It fits on 1 x 4 of them"):
        suggest(full, H100)
    with pytest.raises(UserError, match="no layout divides model.global_batch_size=7"):
        suggest(replace(job, global_batch_size=7, nodes=5), H100)


def test_refuses_fp8_without_its_units(job: TrainingJob) -> None:
    with pytest.raises(UserError, match="a100_80gb has no FP8 units"):
        estimate_job(replace(job, engine=EngineConfig("fp8_tensorwise")), GPUS["a100_80gb"])


def test_configuration_is_read_and_checked() -> None:
    values = compose_training(["model=llava15_13b", "recipe=dpo", "model.tensor_model_parallel_size=2"])
    found = estimate(values, "h200_141gb", nodes=2, gpus_per_node=8)
    assert found.job.data_parallel_size == 8 and found.job.shared_prefix and found.job.lora == LoRAConfig()
    assert found.fits and found.disk_bytes == 3 * found.checkpoint_bytes
    with pytest.raises(UserError, match="number of GPUs is not known"):
        estimate(values)
    with pytest.raises(UserError, match="global_batch_size=128 is not a multiple"):
        estimate(values, nodes=3, gpus_per_node=8)
    with pytest.raises(UserError, match="choose from a100_40gb"):
        estimate(values, "v100", nodes=2, gpus_per_node=8)


def test_command_line(repository: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "scripts/estimate.py", *arguments]
        return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)

    layout = ("model.tensor_model_parallel_size=2", "model.recompute=none", "model.micro_batch_size=1")
    single = run("experiment=dpo_llava15_13b_2x8", "gpu=h100_80gb", *layout)
    assert single.returncode == 0, single.stderr
    assert single.stdout.splitlines()[0].endswith("2 x 8 h100_80gb: TP2 DP8, micro batch 1")
    assert "7,012,424,704  357,834,240" in single.stdout  # 13B / 2, adapters with their whole sides
    assert single.stdout.splitlines()[-1].startswith("fits: ")
    asked = run("model=llava15_13b", "recipe=dpo", "suggest=true", "nodes=4", "gpu=a100_40gb")
    assert "model.tensor_model_parallel_size=" in asked.stdout and "why: " in asked.stdout
    too_small = run("model=llava15_13b", "recipe=dpo", "model.lora=null", "suggest=true", "gpus_per_node=1")
    assert too_small.returncode == 2
    assert too_small.stderr.startswith("error: 1 x 1 h100_80gb: nothing fits.")


@pytest.mark.slow
def test_capacity_document_is_up_to_date(repository: Path) -> None:
    text = document_text()
    assert (repository / "docs/CAPACITY.md").read_text(encoding="utf-8") == text, (
        "write it anew with scripts/estimate.py"
    )
    assert all(title in text for title in MODELS.values())


def test_needs_no_torch() -> None:
    code = "import sys, nemo_mm_align.capacity.run; print(sorted({'torch', 'megatron', 'nemo'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_memory_is_below_the_driver_s_figure() -> None:
    sizes = {"a100_40gb": 40, "a100_80gb": 80, "l40s_48gb": 48, "h100_80gb": 80, "h200_141gb": 141, "b200_180gb": 180}
    assert all(gpu.memory / GIB < sizes[name] for name, gpu in GPUS.items())


def test_a_budget_of_positions_is_what_memory_and_time_go_by(job: TrainingJob) -> None:
    # Rows of 2,999 + 1,024 positions; two and a bit of them fill 9,216, a multiple of 16 under FP8.
    packed = replace(job, micro_batch_tokens=9_220, engine=EngineConfig("fp8_tensorwise"))
    assert (packed.rows, packed.row_length) == (1, 9_216)
    assert packed.samples == pytest.approx(9_216 / 4_023)
    assert packed.labelled == math.ceil(9_216 / 4_023 * 2 * 1_024)
    assert packed.micro_batches == math.ceil(16 / (9_216 / 4_023)) == 7
    assert packed.padded == replace(packed, micro_batch_size=2, micro_batch_tokens=None)
    assert replace(packed, shared_prefix=False).has_mask and not replace(job, shared_prefix=False).has_mask
    usual = job.config.tokens_per_image + 60 + 200 - 1 + 200
    assert packed.usual.samples == pytest.approx(9_216 / usual)
    text = replace(job, workload=replace(job.workload, images_per_sample=0))
    budgets = [stage_memory(replace(text, micro_batch_tokens=n), 0).activations for n in (4_023, 8_046)]
    rows = [stage_memory(replace(text, micro_batch_size=n), 0).activations for n in (1, 2)]
    assert budgets[0] == pytest.approx(rows[0]) and budgets[1] > rows[1], "the mask of one row grows with its square"
    with pytest.raises(UserError, match="row lengths are multiples of 16 .* at least the positions of the longest"):
        replace(packed, micro_batch_tokens=15).check()
    delayed = replace(packed, engine=EngineConfig("fp8_delayed"))
    with pytest.raises(UserError, match="micro_batch_tokens=9220 with precision=fp8_delayed"):
        delayed.check()
    replace(delayed, nodes=1, gpus_per_node=1).check()
    replace(packed, global_batch_size=100).check()
    with pytest.raises(UserError, match="model.global_batch_size=7 is below the data-parallel size 8"):
        replace(packed, global_batch_size=7).check()
    assert describe(packed) == "TP1 DP8, micro batch of 9,220 positions"
    assert suggest(packed, H100).job.micro_batch_tokens == 9_220


def test_attention_without_a_mask_has_none_and_computes_what_is_seen(job: TrainingJob) -> None:
    without = EngineConfig("bf16", levers=Levers(attention=True))
    length, answer = job.workload.length, job.workload.answer
    tree = length**2 / 2 + (length - answer) * answer + answer**2 / 2
    for masked in (replace(job, micro_batch_size=2), replace(job, micro_batch_tokens=2 * job.row_length)):
        free = replace(masked, engine=without)
        assert (masked.has_mask, free.has_mask) == (True, False)
        assert masked.attended == masked.rows * masked.row_length**2 and free.attended == pytest.approx(2 * tree)
        less = {name: stage_memory(one, 0).activations for name, one in (("masked", masked), ("free", free))}
        assert less["masked"] - less["free"] > masked.rows * masked.row_length**2
    apart = replace(job, shared_prefix=False, micro_batch_tokens=4 * job.row_length, engine=without)
    assert apart.attended == pytest.approx(apart.samples * 2 * length**2 / 2)
    causal = replace(job, shared_prefix=False)
    assert causal.attended == causal.rows * causal.row_length**2 / 2 and not causal.has_mask


def test_a_packed_row_of_short_samples_holds_more_images_than_one_of_long_ones(job: TrainingJob) -> None:
    packed = replace(job, micro_batch_tokens=8_192)
    usual = job.config.tokens_per_image + 60 + 2 * 200 - 1
    assert packed.images == math.ceil(8_192 / usual) > math.ceil(packed.samples)
    assert packed.usual.images == packed.images
