"""Adapters merged into the weights: the same logits in every layout, no adapters left, one rounding in bf16."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_mm_align.inference.loading import open_for_inference
from nemo_mm_align.model.config import LoRAConfig, ParallelConfig
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.parallel import runtime
from tests.attribute_checkpoints import attribute_checkpoint
from tests.distributed import run_distributed
from tests.tiny import tiny_llava

pytestmark = pytest.mark.parallel

LORA = LoRAConfig(rank=4, alpha=8, dropout=0.0, targets=("q", "v", "o", "up", "down"))  # k and gate go without
HIDDEN, QUERIES, KEYS, FFN, LAYERS = 48, 48, 24, 80, 4
OUTER = {"q": HIDDEN + QUERIES, "v": HIDDEN + KEYS, "o": QUERIES + HIDDEN, "up": HIDDEN + FFN, "down": FFN + HIDDEN}
SPLIT = {"q": QUERIES, "v": KEYS, "o": QUERIES, "up": FFN, "down": FFN}
"""Of each adapter's numbers per rank, those that two tensor-parallel ranks share."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("merged")
    tiny_llava(place / "base")
    runtime.initialize(ParallelConfig(), seed=1)
    yield attribute_checkpoint(place / "run", place / "base", None, LORA)
    runtime.shutdown()


def test_logits_stay_and_adapters_go_in_every_layout(folder: Path, tmp_path: Path) -> None:
    run_distributed("tests.parallel.merge_worker", 2, folder, tmp_path / "found.json")
    found: dict[str, dict[str, Any]] = json.loads((tmp_path / "found.json").read_text())
    whole = LORA.rank * LAYERS * sum(OUTER.values())
    halves = LORA.rank * LAYERS * sum(OUTER[name] - SPLIT[name] // 2 for name in OUTER)
    assert {name: one["freed"] for name, one in found.items()} == {"dp2": whole, "tp2": halves, "pp2": whole // 2}
    for one in found.values():
        assert 0 < one["error"] < 1e-5 and one["left"] == []


def opened_in_bf16(folder: Path, merge: Any) -> Llava:
    return open_for_inference(folder, ParallelConfig(), "bf16").generator(1000, merge_adapters=merge).model


def test_bf16_weights_are_rounded_once_and_only_where_asked(folder: Path) -> None:
    apart, merged = opened_in_bf16(folder, "auto"), opened_in_bf16(folder, True)
    assert apart.lora == LORA and merged.lora is None
    for layer in range(LAYERS):
        before = apart.language_model.decoder.layers[layer].mlp.linear_fc2
        adapter = before.adapters["down"]
        update = 2.0 * adapter.b.float() @ adapter.a.float()  # alpha / rank
        expected = (before.weight.float() + update).bfloat16()
        after = merged.language_model.decoder.layers[layer].mlp.linear_fc2.weight
        assert (after != expected).float().mean() < 1e-2  # fused and separate sums may round apart
        assert (after != before.weight).float().mean() > 0.9
        gate, up = (m.language_model.decoder.layers[layer].mlp.linear_fc1.weight.split(FFN) for m in (apart, merged))
        assert torch.equal(gate[0], up[0]) and not torch.equal(gate[1], up[1])
