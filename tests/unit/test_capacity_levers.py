"""What levers keep and need, against figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nemo_mm_align.capacity import losses
from nemo_mm_align.capacity.activations import GPU_KERNELS, LayerActivations, saved_tensors
from nemo_mm_align.capacity.forward import forward_bytes
from nemo_mm_align.capacity.job import TrainingJob, Workload
from nemo_mm_align.capacity.losses import logits, logits_without_gradients, loss_workspace
from nemo_mm_align.capacity.memory import stage_memory
from nemo_mm_align.model import label_losses
from nemo_mm_align.model.config import EngineConfig, Levers, LoRAConfig
from tests.paper_job import paper_dpo

HIDDEN, FFN, LAYERS, VOCABULARY, RANK = 5120, 13824, 40, 32064, 128
PREFIX, ANSWER = 1975, 1024
LENGTH = PREFIX + 2 * ANSWER
LABELLED = 2 * ANSWER


@pytest.fixture
def job(repository: Path) -> TrainingJob:
    """DPO of the 13B in bf16 with LoRA as the paper has it, and dropout: two answers of 1,024 tokens behind one prompt."""
    return replace(paper_dpo(repository), lora=LoRAConfig(rank=RANK, dropout=0.05))


def pulled(job: TrainingJob, *names: str) -> TrainingJob:
    return replace(job, engine=replace(job.engine, levers=Levers.only(*names)))


def layer(job: TrainingJob) -> dict[str, float]:
    return LayerActivations(job, GPU_KERNELS).all()


def changed(job: TrainingJob, *names: str) -> tuple[dict[str, float], dict[str, float]]:
    """What a layer keeps that it did not, and what it no longer does."""
    before, after = layer(job), layer(pulled(job, *names))
    return (
        {name: size for name, size in after.items() if before.get(name) != size},
        {name: size for name, size in before.items() if after.get(name) != size},
    )


def test_a_feed_forward_layer_keeps_gate_and_up_once(job: TrainingJob) -> None:
    new, gone = changed(job, "mlp")
    assert new == {"gate and up": 2.0 * LENGTH * FFN * 2} and gone == {"gate and up, twice": 4.0 * LENGTH * FFN * 2}
    free = pulled(job, "mlp", "dropout")
    down = LENGTH * (FFN + RANK) * 2  # is gone when gate and up have their gradients
    assert LayerActivations(free, GPU_KERNELS).mlp_workspace() == 4 * LENGTH * FFN * 2 - down


def test_rotary_factors_are_shared_and_values_their_own(job: TrainingJob) -> None:
    new, gone = changed(job, "rope")
    assert new == {"values": 2.0 * LENGTH * HIDDEN}
    assert gone == {"rotary factors": 4.0 * LENGTH * 128 * 2, "joined qkv": 2.0 * LENGTH * 3 * HIDDEN}
    saved = saved_tensors(pulled(job, "rope"), 0)
    assert saved["cosines and sines"] == 2 * LENGTH * 128 * 2 and "angles" not in saved
    recomputed = replace(pulled(job, "rope"), engine=EngineConfig("bf16", recompute="full", levers=Levers(rope=True)))
    assert saved_tensors(recomputed, 0)["cosines and sines"] == 2 * LENGTH * 128 * 2


def test_dropout_keeps_inputs_alone(job: TrainingJob) -> None:
    new, gone = changed(job, "dropout")
    narrow, wide = 2.0 * LENGTH * HIDDEN, 2.0 * LENGTH * FFN
    assert new == {"qkv input": narrow, "gate and up input": narrow, "down input": wide}
    masked = dict.fromkeys(("qkv", "projection", "gate and up"), 1.5 * narrow) | {"down": 1.5 * wide}
    assert gone == {f"{name} input after dropout": size for name, size in masked.items()}, "a mask of one byte"
    without = replace(job, lora=replace(job.lora, dropout=0.0))  # type: ignore[type-var]
    assert layer(pulled(job, "dropout")) == layer(without)


def test_adapters_of_qkv_keep_one_joined_matrix(job: TrainingJob) -> None:
    assert changed(job, "lora") == ({"qkv joined B": 3 * RANK * 3 * HIDDEN * 2.0}, {})
    assert changed(replace(job, lora=None), "lora", "dropout") == ({}, {})


def test_a_pass_without_gradients_adds_adapters_in_place(job: TrainingJob) -> None:
    assert forward_bytes(job, 0) - forward_bytes(pulled(job, "lora"), 0) == pytest.approx(4 * LENGTH * FFN * 2)


def test_chunks_are_those_of_the_model() -> None:
    assert losses.chunk_rows is label_losses.chunk_rows
    for sizes in ((2048, HIDDEN, VOCABULARY), (10, 96, 515), (1, 64, 10_000_000)):
        assert losses.chunk_rows(*sizes) == label_losses.chunk_rows(*sizes)


def test_losses_of_a_frozen_output_layer_keep_a_gradient(job: TrainingJob) -> None:
    chunked, states = pulled(job, "losses"), LABELLED * HIDDEN * 2
    assert logits(chunked) == {"labelled positions": LABELLED * 16.0, "gradients of labelled hidden states": states}
    rows = LABELLED * HIDDEN // VOCABULARY
    assert rows == 327
    # probabilities, log-probabilities, their product; hidden states, the labelled ones
    assert loss_workspace(chunked) == rows * VOCABULARY * 4 * 3 + LENGTH * HIDDEN * 2 + states
    assert logits_without_gradients(chunked) == rows * VOCABULARY * 6
    assert logits_without_gradients(job) == LABELLED * VOCABULARY * 6
    few = replace(chunked, workload=Workload(3000, answer_tokens=50))
    assert loss_workspace(few) == 100 * VOCABULARY * 4 * 3 + few.state_bytes + 100 * HIDDEN * 2
    silent = replace(few, reads=replace(few.reads, token_losses=False, hidden="last"))
    assert loss_workspace(silent) == logits_without_gradients(silent) == 0


def test_losses_of_a_trained_output_layer_compute_logits_again(job: TrainingJob) -> None:
    full, weight = replace(pulled(job, "losses"), lora=None), HIDDEN * VOCABULARY
    kept = {"labelled positions": 16.0, "normalisers": 16.0, "labelled hidden states": HIDDEN * 2.0}
    assert logits(full) == {name: LABELLED * size for name, size in kept.items()}
    states = LABELLED * HIDDEN * 2
    # the error in bf16 and the weight's gradient, beside the hidden states'
    assert loss_workspace(full) == LABELLED * VOCABULARY * 2 + weight * 2 + states
    two = replace(full, micro_batch_size=4)  # 8,192 positions in chunks of 5,120: parts in bf16, their sum in fp32
    assert loss_workspace(two) == weight * 2 + weight * (2 + 2 + 4) + 4 * states
    three = replace(full, micro_batch_size=6)  # logits in bf16 and fp32; the sum
    assert loss_workspace(three) == weight * (2 + 4) + weight * 4 + 6 * states


def test_attention_by_trees_gathers_a_prefix_for_every_branch(job: TrainingJob) -> None:
    new, gone = changed(job, "attention")
    gathered = 2 * (PREFIX + ANSWER)
    assert new == {"gathered keys and values": 2.0 * gathered * HIDDEN * 2}
    assert set(gone) == {"keys", "joined qkv", "attention mask as numbers"}
    apart = pulled(replace(job, shared_prefix=False, micro_batch_tokens=8_192), "attention")
    assert apart.gathered_keys == 8_192, "sequences that share no prefix"
    packed = pulled(replace(job, micro_batch_tokens=2 * LENGTH), "attention")
    assert packed.gathered_keys == pytest.approx(2 * gathered)
    assert "projection input" not in layer(replace(packed, lora=replace(job.lora, dropout=0.0)))  # type: ignore[type-var]
    rows = pulled(replace(job, micro_batch_size=2), "attention", "dropout")
    assert layer(rows)["projection input"] == 2 * LENGTH * HIDDEN * 2, "a copy, since rows lie one after the other"
    unfused = replace(pulled(job, "attention"), fused_attention=False)
    assert layer(unfused) == layer(pulled(job, "attention"))
    selective = replace(unfused, engine=replace(unfused.engine, recompute="selective"))
    assert {"keys", "joined qkv"} <= set(layer(selective)) and "gathered keys and values" not in layer(selective)


def test_levers_save_memory_together(job: TrainingJob) -> None:
    everything = pulled(job, "lora", "mlp", "rope", "dropout", "losses", "attention")
    plain, less = (stage_memory(one, 0) for one in (job, everything))
    assert plain.static == less.static and plain.activations > 1.6 * less.activations
