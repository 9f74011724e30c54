"""Fused kernels: found, broken, missing; and what a run on this machine computes with."""

from __future__ import annotations

import torch

from nemo_mm_align.parallel import kernels


def by_name(found):
    return {item.package.name: item for item in found}


def test_a_broken_build_is_told_from_a_missing_one(tmp_path, monkeypatch):
    (tmp_path / "amp_C.py").write_text("raise ImportError('undefined symbol: _ZN2at')\n")
    monkeypatch.syspath_prepend(tmp_path)
    apex = by_name(kernels.installed(import_them=True))["apex"]
    assert (apex.version, apex.error, apex.usable) == ("unknown version", "undefined symbol: _ZN2at", False)
    assert by_name(kernels.installed())["apex"].usable  # without importing it looks well
    assert "apex               unknown version: does not import (undefined symbol: _ZN2at)" in kernels.report()


def test_the_other_apex_is_no_apex(tmp_path, monkeypatch):
    """The public index has a web toolkit of that name, without NVIDIA's compiled part."""
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert by_name(kernels.installed(import_them=True))["apex"].version is None


def test_what_a_run_computes_with():
    found = kernels.active("local")
    assert found["linear"] == "megatron-core" and found["norm"] == f"torch {torch.__version__}"
    if not torch.cuda.is_available():
        assert found["attention"] == "torch scaled_dot_product_attention (CPU kernel)"
        assert found["optimizer"] == "torch AdamW"
        assert found["gradient_norm"] == "torch get_total_norm"
        assert found["gradient_clipping"] == "megatron-core local_multi_tensor_scale"
    assert kernels.active("transformer_engine")["linear"].startswith("TransformerEngine")
