"""The decoder without gradients gives megatron-core's numbers bit for bit, in whatever way it is asked."""

from __future__ import annotations

import pytest
import torch
from megatron.core.transformer.identity_op import IdentityOp
from torch import Tensor

from nemo_mm_align.model.attention import CoreAttention, KeyValueCache, RowsOfTrees, segment_mask
from nemo_mm_align.model.config import LoRAConfig
from nemo_mm_align.model.layer_specs import Kernels, decoder_layer
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.model.plain_decoder import is_plain
from nemo_mm_align.model.trees import Trees
from tests.gpu import cpu_parity_worker as small

pytestmark = [pytest.mark.parallel, pytest.mark.usefixtures("process_group")]

ROWS, LENGTH = 3, 11


def both(
    model: Llava, positions_BS: Tensor, mask: Tensor | None, hidden_SBH: Tensor, trees: RowsOfTrees | None = None
) -> tuple[Tensor, Tensor]:
    """Hidden states of megatron-core's block, and of ours."""
    theirs = model.language_model(
        input_ids=None,
        position_ids=positions_BS.unsqueeze(0).expand(3, -1, -1),
        attention_mask=mask,
        decoder_input=hidden_SBH.clone(),
        packed_seq_params=trees,
    )
    return theirs, model.language_model.run_plainly(positions_BS, mask, hidden_SBH.clone(), trees)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lora", [None, small.LORA], ids=["full", "lora"])
@torch.no_grad()
def test_prompts_and_steps_equal_megatrons_block(dtype: torch.dtype, lora: LoRAConfig | None) -> None:
    model = small.build(lora).eval().to(dtype)
    drawn = torch.Generator().manual_seed(3)
    hidden_SBH = torch.randn(LENGTH + 1, ROWS, 96, generator=drawn).to(dtype)
    positions_BS = torch.arange(LENGTH).repeat(ROWS, 1)
    segments_BS = torch.tensor([[0] * 4 + [1] * 5 + [2] * 2]).repeat(ROWS, 1)
    trees = RowsOfTrees.on(segments_BS.device, Trees.of(segments_BS, torch.zeros_like(segments_BS)))
    for mask, layout in ((None, None), (segment_mask(segments_BS), None), (None, trees)):
        theirs, ours = both(model, positions_BS, mask, hidden_SBH[:LENGTH], layout)
        assert torch.equal(theirs, ours)
    cache, rows = KeyValueCache(model, ROWS, LENGTH + 1), torch.arange(ROWS)
    columns_B = torch.tensor([LENGTH, 5, 2])
    visible = (torch.arange(LENGTH + 1) <= columns_B.unsqueeze(1))[:, None, None, :]
    with cache.prefilling(rows, rows):
        both(model, positions_BS, None, hidden_SBH[:LENGTH])
    with cache.stepping(columns_B, LENGTH + 1):
        assert torch.equal(*both(model, columns_B.unsqueeze(1), visible, hidden_SBH[LENGTH:]))


def test_the_layers_are_such_that_nothing_is_left_out() -> None:
    model = small.build(small.LORA)
    layer = model.language_model.decoder.layers[0]
    assert model.language_model.is_plain and is_plain(layer)
    layer.self_attention.linear_qkv.layer_norm_weight = torch.ones(96)  # as TransformerEngine's fused linear has it
    assert not is_plain(layer)
    del layer.self_attention.linear_qkv.layer_norm_weight
    layer.pre_mlp_layernorm, norm = IdentityOp(), layer.pre_mlp_layernorm
    assert not is_plain(layer)
    layer.pre_mlp_layernorm, layer.config.fp32_residual_connection = norm, True
    assert not is_plain(layer)


def test_transformer_engines_layers_have_norms_of_their_own() -> None:
    """Its classes are not here: what the specification puts where does not depend on them."""
    column, row, norm = (type(name, (torch.nn.Module,), {}) for name in ("Column", "Row", "Norm"))
    config = small.build(None).language_model.config
    for lora in (None, small.LORA):
        layer = decoder_layer(Kernels("transformer_engine", column, row, norm), config, lora).submodules
        assert layer.input_layernorm is layer.pre_mlp_layernorm is norm
        parts = layer.self_attention.submodules
        assert (parts.core_attention, parts.q_layernorm, parts.k_layernorm) == (CoreAttention, None, None)
        assert issubclass(getattr(parts.linear_qkv, "module", parts.linear_qkv), column)


def test_what_has_gradients_or_dropout_keeps_megatrons_block() -> None:
    model, calls = small.build(None), list[int]()
    model.language_model.decoder.register_forward_hook(lambda *given: calls.append(1))
    ids_BS, positions_BS = torch.tensor([[5, 6, 7]]), torch.arange(3).unsqueeze(0)
    with torch.no_grad():
        plain = model.eval()(ids_BS, positions_BS, None)
        assert not calls
        trained = model.train()(ids_BS, positions_BS, None)
    assert len(calls) == 1 and torch.equal(plain, trained)
    assert model.eval()(ids_BS, positions_BS, None).requires_grad and len(calls) == 2
