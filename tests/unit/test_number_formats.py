"""What FP8 asks of sizes, devices and stages, checked where there is no GPU: arithmetic, limits and refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import ROOT
from nemo_mm_align.inference.loading import open_for_inference
from nemo_mm_align.model.arithmetic import odd_fp8_widths, row_length_multiple
from nemo_mm_align.model.config import EngineConfig, LlavaConfig, ParallelConfig, fp8_capability
from nemo_mm_align.model.layer_specs import kernels
from nemo_mm_align.model.transformer_configs import check_fp8_widths


def preset(name: str) -> LlavaConfig:
    return LlavaConfig.from_dict(yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("precision", ["fp8_delayed", "fp8_tensorwise", "fp8_blockwise"])
@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_fp8_rows_can_be_quantised_on_every_rank(precision: str, tensor: int, sequence_parallel: bool) -> None:
    sequence_parallel = sequence_parallel and tensor > 1
    length = row_length_multiple(ParallelConfig(tensor, 1, sequence_parallel), EngineConfig(precision))
    assert length % 16 == 0, "the gradient's product sums over positions"
    share = length // tensor if sequence_parallel else length
    assert length % tensor == 0 or not sequence_parallel
    assert share % 8 == 0, "TransformerEngine's condition on each rank's own positions"
    if precision == "fp8_blockwise" and sequence_parallel:
        assert share % 128 == 0, "its condition on what it gathers by blocks"


def test_other_formats_pad_for_sequence_parallelism_alone() -> None:
    assert row_length_multiple(ParallelConfig(4, 1, True), EngineConfig("bf16")) == 4
    assert row_length_multiple(ParallelConfig(4, 1, False), EngineConfig("bf16")) == 1


@pytest.mark.parametrize("name", ["llava15_7b", "llava15_13b"])
@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
def test_published_models_have_widths_for_fp8(name: str, tensor: int) -> None:
    assert odd_fp8_widths(preset(name), ParallelConfig(tensor)) == {}


def test_widths_that_fp8_cannot_take_are_named_before_training() -> None:
    config = preset("llava15_7b")
    odd = replace(config, language=replace(config.language, ffn_hidden_size=11000))
    with pytest.raises(UserError, match=r"ffn_hidden_size / TP=5500.*smaller model.tensor_model_parallel_size"):
        check_fp8_widths(odd, ParallelConfig(2), EngineConfig("fp8_tensorwise"))
    check_fp8_widths(odd, ParallelConfig(2), EngineConfig("bf16"))


def test_scaling_by_blocks_is_newer_than_fp8_itself() -> None:
    assert fp8_capability("fp8_tensorwise") == (8, 9) and fp8_capability("fp8_blockwise") == (9, 0)


def test_decoding_refuses_fp8_before_it_reads_a_model() -> None:
    with pytest.raises(UserError, match="FP8 is for training.*precision=bf16"):
        open_for_inference("no_such_folder", ParallelConfig(), "fp8_tensorwise")


def test_fp32_is_never_computed_in_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemo_mm_align.model.layer_specs.transformer_engine_available", lambda: True)
    assert kernels(EngineConfig("fp32")).name == "local"
