"""Saving and loading a checkpoint copy no weights: tensors that are made meanwhile, and bytes on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nemo_mm_align.model.config import EngineConfig, LanguageConfig, LlavaConfig, ParallelConfig, VisionConfig
from nemo_mm_align.model.llava import Llava, build_llava
from nemo_mm_align.parallel import checkpoint, runtime
from nemo_mm_align.parallel.sharded_state import own_storage
from tests.memory import PeakMemory
from tests.parallel.memory_worker import bytes_of

CONFIG = LlavaConfig(
    LanguageConfig(4, 384, 1024, num_attention_heads=4, vocab_size=515, num_query_groups=4),
    VisionConfig(3, 64, 128, num_attention_heads=4, image_size=56, patch_size=14),
    image_token_id=514,
)
_PLANS = 500_000
"""More than the plans that ranks exchange as tensors, bytes."""


@pytest.fixture(scope="module")
def model() -> Iterator[Llava]:
    runtime.initialize(ParallelConfig(), seed=1)
    yield build_llava(CONFIG, ParallelConfig(), EngineConfig("fp32"))
    runtime.shutdown()


@pytest.fixture(scope="module")
def saved(model: Llava, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PeakMemory]:
    metadata = checkpoint.CheckpointMetadata(
        step=1, model=CONFIG.to_dict(), lora=None, template={}, attribute_schema=None, image_processor={}, recipe={},
        base_path="", base_fingerprint="", precision="fp32",
    )  # fmt: skip
    halves = [own_storage(half) for parameter in model.parameters() for half in parameter.chunk(2)]  # gate and up
    with PeakMemory([*model.parameters(), *halves]) as memory:
        folder = checkpoint.save(tmp_path_factory.mktemp("run"), model, metadata)
    return folder, memory


def test_saving_copies_nothing_and_writes_every_number_once(model: Llava, saved: tuple[Path, PeakMemory]) -> None:
    folder, memory = saved
    weights = bytes_of(model.parameters())
    assert memory.peak < _PLANS < weights / 20
    written = sum(path.stat().st_size for path in folder.rglob("*.distcp"))
    assert weights <= written < 1.1 * weights


def test_loading_holds_no_more_than_two_tensors_besides_the_weights(
    model: Llava, saved: tuple[Path, PeakMemory]
) -> None:
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    with PeakMemory(model.parameters()) as memory:
        checkpoint.load(saved[0], model)
    largest = max(parameter.nbytes for parameter in model.parameters())
    assert memory.peak < 2 * largest + _PLANS < bytes_of(model.parameters()) / 4
    assert all(torch.equal(value, old) for value, old in zip(model.parameters(), before, strict=True))


def test_own_storage_is_the_same_memory() -> None:
    whole = torch.arange(24, dtype=torch.bfloat16).view(6, 4)
    second: Tensor = own_storage(whole[2:4])
    assert second.untyped_storage().nbytes() == 16 and second.data_ptr() == whole[2:4].data_ptr()
    whole[3, 1] = -1
    assert second.tolist() == [[8, 9, 10, 11], [12, -1, 14, 15]]
    gaps = whole[:, 1:3]
    assert own_storage(gaps).untyped_storage().nbytes() == 48, "left to whoever can copy"
    del whole
    assert second.tolist() == [[8, 9, 10, 11], [12, -1, 14, 15]], "the memory lives as long as its parts"
