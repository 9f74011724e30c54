"""Checkpoint folders as torch_dist writes them, without a model: for tests of what is complete and what is damaged."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex

from nemo_mm_align.parallel.checkpoint_folder import CheckpointMetadata, step_folder

SHARDS = {"__0_0.distcp": 300, "__1_0.distcp": 500}


def metadata_of(step: int) -> CheckpointMetadata:
    return CheckpointMetadata(
        step=step, model={}, lora=None, template={}, attribute_schema=None, image_processor={}, recipe={}, base_path="",
        base_fingerprint="", precision="fp32",
    )  # fmt: skip


def write_checkpoint(run: Path, metadata: CheckpointMetadata) -> Path:
    """Write the folder of a complete checkpoint whose shards hold zeros, two parts in each."""
    folder = step_folder(run, metadata.step)
    state = folder / "state"
    state.mkdir(parents=True)
    places = {
        MetadataIndex(f"{name}/{half}"): _StorageInfo(name, half * size // 2, size // 2)
        for name, size in SHARDS.items()
        for half in range(2)
    }
    for name, size in SHARDS.items():
        (state / name).write_bytes(bytes(size))
    stored = Metadata(dict.fromkeys((index.fqn for index in places), BytesStorageMetadata()), storage_data=places)
    (state / ".metadata").write_bytes(pickle.dumps(stored))
    (state / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist"}))
    torch.save({"trainer": {"global_step": metadata.step}}, state / "common.pt")
    (folder / "metadata.json").write_text(json.dumps(metadata.content()))
    return folder
