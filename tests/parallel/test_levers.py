"""Levers change no number: each alone and all together against the plain way, in one process.

`parity_worker` pulls all of them under tensor, sequence and pipeline parallelism.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import get_args

import pytest
import torch
from megatron.core import tensor_parallel
from torch import Tensor

from nemo_mm_align.benchmarks.gpu import levers as benchmark
from nemo_mm_align.model import arithmetic, label_losses, low_rank
from nemo_mm_align.model.attention import segment_mask
from nemo_mm_align.model.config import EngineConfig, Lever, Levers, LoRAConfig
from nemo_mm_align.model.llava import build_llava, set_trainable
from nemo_mm_align.model.low_rank import add_product
from nemo_mm_align.model.swiglu import swiglu
from tests.float64 import TOLERANCE, Float64
from tests.gpu import cpu_parity_worker as small
from tests.parallel.differences import gradient_differences, relative

pytestmark = [pytest.mark.parallel, pytest.mark.usefixtures("process_group")]

EACH = ("lora", "mlp", "rope", "dropout", "losses")
ALL = Levers.only(*EACH)
DROPPED = replace(small.LORA, dropout=0.3)
SOME = replace(DROPPED, targets=("q", "v", "up", "down"))


@dataclass
class Pass:
    """Losses, entropies and hits at the labels, gradients, and bytes that were kept for these."""

    told: list[Tensor]
    gradients: dict[str, Tensor]
    kept: int


@contextmanager
def counted(kept: dict[int, int]) -> Iterator[None]:
    """Note the memory of everything that is saved for the backward pass, each piece once."""

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield


def run(
    levers: Levers, lora: LoRAConfig | None, recompute: str = "none", tied: bool = False, precision: str = "fp32"
) -> Pass:
    """One forward and backward pass of rows that share a prefix, with dropout drawn from one seed."""
    config = replace(small.CONFIG, language=replace(small.CONFIG.language, tie_word_embeddings=tied))
    model = build_llava(config, lora=lora, engine=EngineConfig(precision, recompute=recompute, levers=levers))
    small.draw(model)
    set_trainable(model, language=lora is None, projector=True, vision=False, adapters=True)
    batch = small.batch(shared=True)
    tensor_parallel.model_parallel_cuda_manual_seed(3)
    kept: dict[int, int] = {}
    with counted(kept):
        mask = segment_mask(batch.segment_ids_BS)
        hidden = model(batch.input_ids_BS, batch.position_ids_BS, mask, batch.images_NCHW, batch.image_index_K)
        told = model.token_statistics(hidden, batch.labels_BS, batch.places.label_P)
    weights = torch.rand(told[0].shape, generator=torch.Generator().manual_seed(5))
    (told[0] * weights).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return Pass([values.detach() for values in told], gradients, sum(kept.values()))


PLAIN: dict[tuple, Pass] = {}


def compare(
    levers: Levers, lora: LoRAConfig | None, recompute: str = "none", tied: bool = False, wide: bool = True
) -> Pass:
    """Assert that levers change nothing but what is kept; return that pass."""
    with Float64() if wide else nullcontext():
        key = (lora, tied, wide)
        plain = PLAIN.setdefault(key, None) or run(Levers.only(), lora, tied=tied)  # type: ignore[arg-type]
        PLAIN[key] = plain
        found = run(levers, lora, recompute, tied)
    bound = TOLERANCE if wide else 1e-6
    for actual, expected in zip(found.told, plain.told, strict=True):
        assert relative(actual, expected) < bound
    differences = gradient_differences(found.gradients, plain.gradients)
    assert max(differences.values()) < (bound if wide else 5e-6), max(differences, key=lambda name: differences[name])
    return found


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("lora", [DROPPED, None], ids=["lora", "full"])
def test_each_lever_alone_changes_no_number(name: str, lora: LoRAConfig | None) -> None:
    found = compare(Levers.only(name), lora)
    if name not in ("lora", "dropout"):
        assert found.kept < PLAIN[(lora, False, True)].kept


def test_dropout_keeps_its_input_alone() -> None:
    kept = {}
    for levers in (Levers.only(), Levers.only("dropout")):
        layer = small.build(DROPPED).train().language_model.decoder.layers[0].mlp.linear_fc2
        layer.layers = replace(layer.layers, levers=levers.on("cpu"))
        pieces: dict[int, int] = {}
        with counted(pieces):
            layer(torch.randn(50, 4, 240, requires_grad=True))
        kept[levers] = sum(pieces.values())
    inputs = 50 * 4 * 240 * 4
    assert kept[Levers.only()] - kept[Levers.only("dropout")] == inputs


@pytest.mark.parametrize(
    ("lora", "recompute", "tied"),
    [(DROPPED, "full", False), (SOME, "selective", False), (None, "full", True), (None, "none", True)],
)
def test_all_levers_change_no_number(lora: LoRAConfig | None, recompute: str, tied: bool) -> None:
    compare(ALL, lora, recompute, tied)


def test_all_levers_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "CHUNK_LOGITS", 1000)  # chunks of a few positions
    assert label_losses.chunk_rows(100, 96, 515) == 18
    for lora in (DROPPED, None):
        compare(ALL, lora, wide=False)


@pytest.mark.parametrize("lora", [DROPPED, None], ids=["lora", "full"])
def test_all_levers_in_bf16(lora: LoRAConfig | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding to 8 bits comes at other places: what differs is no more than what bf16 itself does."""
    monkeypatch.setattr(arithmetic, "CHUNK_LOGITS", 1000)
    exact, plain, pulled = (
        run(Levers.only(), lora),
        run(Levers.only(), lora, precision="bf16"),
        run(ALL, lora, precision="bf16"),
    )
    assert relative(pulled.told[0], exact.told[0]) < 1.5 * relative(plain.told[0], exact.told[0])
    noise, found = (gradient_differences(one.gradients, exact.gradients).values() for one in (plain, pulled))
    assert sum(found) < 1.5 * sum(noise)


@pytest.mark.parametrize("dropout", [0.05, 0.1])
def test_what_dropout_keeps_is_not_scaled_by_a_number_of_16_bits(dropout: float) -> None:
    """1 / 0.95 is 0.2 % too large in bf16: of many products no rounding, but a factor."""
    drawn = torch.Generator().manual_seed(1)
    given_SBH, a_RH = (torch.randn(*shape, generator=drawn).bfloat16() for shape in ((64, 8, 256), (32, 256)))
    outgoing_SBR = torch.randn(64, 8, 32, generator=drawn).bfloat16()
    told = []
    for dtype in (torch.bfloat16, torch.float64):
        torch.manual_seed(5)
        input_SBH, weight_RH = (x.to(dtype, copy=True).requires_grad_() for x in (given_SBH, a_RH))
        if dtype == torch.bfloat16:
            output_SBR = low_rank.linear_of_dropped(input_SBH, weight_RH, dropout)
        else:
            mask = torch.empty(given_SBH.shape, dtype=torch.bfloat16).bernoulli_(1 - dropout).double() / (1 - dropout)
            output_SBR = (input_SBH * mask) @ weight_RH.t()
        output_SBR.backward(outgoing_SBR.to(dtype))
        told.append([x.double() for x in (output_SBR.detach(), input_SBH.grad, weight_RH.grad)])
    for found, exact in zip(*told, strict=True):
        assert float((found * exact).sum() / exact.square().sum()) == pytest.approx(1, abs=5e-4)


def test_the_benchmark_pulls_the_settings_of_a_model_that_is_built() -> None:
    model = build_llava(small.CONFIG, lora=DROPPED, engine=EngineConfig(levers=Levers.only("mlp")))
    assert (*EACH, "attention") == benchmark.SETTINGS
    told = [module.layers for module in model.modules() if hasattr(module, "layers") and hasattr(module, "adapters")]
    with benchmark.pulled(model, ("lora", "no dropout")):
        assert len(told) == 16 and {config.levers for config in told} == {frozenset({"lora", "mlp"})}
    assert model.config.levers == {"mlp"} == model.language_model.rotary_pos_emb.config.levers


def test_no_layer_knows_a_lever_by_another_name() -> None:
    assert {*EACH, "attention"} == {item.name for item in fields(Levers)} == set(get_args(Lever))


def test_a_rank_of_padding_alone_has_no_part_in_a_loss() -> None:
    hidden_PH, weight_VH = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    losses_P, entropies_P, highest_P = label_losses.label_losses(hidden_PH, weight_VH, torch.tensor([0, 1, 0]), 2, True)
    expected = torch.nn.functional.linear(hidden_PH, weight_VH[:2]).log_softmax(-1)
    torch.testing.assert_close(losses_P, -expected[torch.arange(3), torch.tensor([0, 1, 0])])
    torch.testing.assert_close(entropies_P, -(expected.exp() * expected).sum(-1))
    torch.testing.assert_close(highest_P, expected.amax(-1))


def test_a_product_is_added_where_the_output_lies_unless_that_is_a_view() -> None:
    low, up = torch.ones(1, 2, 1), torch.tensor([[1.0, 2.0]])
    given = torch.nn.functional.linear(torch.eye(3).view(1, 3, 3)[:, :2], torch.ones(3, 3, requires_grad=True))
    added = add_product(given, low, 10.0, [up], [1])
    assert added.tolist() == [[[1.0, 11.0, 21.0]] * 2] and added.data_ptr() == given.data_ptr()
    whole = torch.zeros(2, 3)
    assert add_product(whole.view(1, 2, 3), low, 10.0, [up], [0]).tolist() == [[[10.0, 20.0, 0.0]] * 2]
    assert not whole.any(), "somebody else's memory"


def test_swiglu_by_hand_and_by_differences() -> None:
    assert swiglu(torch.tensor([[1.0, -2.0, 3.0, 0.5]])).tolist() == [
        [pytest.approx(3 / (1 + 2.718281828**-1)), pytest.approx(-1 / (1 + 2.718281828**2))]
    ]
    given = torch.randn(3, 2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(swiglu, given)
