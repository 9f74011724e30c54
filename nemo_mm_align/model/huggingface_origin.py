"""What a Hugging Face folder holds besides the weights that are computed: it travels with a model and leaves unchanged.

LLaVA folders carry tensors that nobody computes (the last CLIP layer, the final layer norm), tokenizer, processor, chat
template, licence. An `Origin` keeps them and the keys and number formats of all tensors, so that an export has the form
of the folder that the model came from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_mm_align.core.folder_files import read_object
from nemo_mm_align.model.config import LlavaConfig, ParallelConfig
from nemo_mm_align.model.huggingface_config import config_from_values, hf_config_from_llava
from nemo_mm_align.model.huggingface_head import has_head
from nemo_mm_align.model.huggingface_names import HEAD, OUTPUT, file_name, uncomputed_vision_shapes, weight_pieces
from nemo_mm_align.model.huggingface_reader import INDEX, SINGLE, WeightFiles
from nemo_mm_align.model.huggingface_writer import DTYPES, Entry, ShardWriter, dtype_name

ORIGIN_FILE, CARRIED_STEM = "origin.json", "carried"
_TRAVELLING = ("*.json", "*.model", "*.txt", "*.jinja", "LICENSE*", "NOTICE*", "USE_POLICY*")
_OWN = ("config.json", ORIGIN_FILE, INDEX, "adapter_config.json")


@dataclass(frozen=True)
class Carried:
    """A tensor that goes from folder to folder unread."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Origin:
    """The form of a Hugging Face folder.

    Args:
        config: config.json.
        computed: for each tensor that this engine computes, by transformers' module name: key and safetensors dtype.
        files: files that travel along.
        carried: tensors that are copied unchanged, by key.
    """

    config: dict[str, Any]
    computed: dict[str, tuple[str, str]]
    files: tuple[Path, ...] = ()
    carried: dict[str, Carried] = field(default_factory=dict)

    @staticmethod
    def is_in(folder: str | Path) -> bool:
        """Whether `of_folder` can read a folder: weights of Hugging Face, or what `save` wrote."""
        names = (SINGLE, INDEX, ORIGIN_FILE)
        return (Path(folder) / "config.json").exists() and any((Path(folder) / name).exists() for name in names)

    @classmethod
    def of_folder(cls, folder: str | Path) -> Origin:
        """Read a Hugging Face LLaVA folder, or a folder that `save` wrote; raise `UserError` where it is incomplete."""
        folder = Path(folder)
        values = read_object(folder / "config.json", "config.json and weights")
        files = tuple(
            sorted({path for pattern in _TRAVELLING for path in folder.glob(pattern) if path.name not in _OWN})
        )
        if (folder / ORIGIN_FILE).exists():
            weights = WeightFiles([folder / f"{CARRIED_STEM}.safetensors"])
            stored = read_object(folder / ORIGIN_FILE, "its origin")["computed"]
            computed = {name: (key, dtype) for name, (key, dtype) in stored.items()}
        else:
            weights = WeightFiles.of_folder(folder)
            names = computed_names(config_from_values(values, str(folder / "config.json")))
            names |= {HEAD} if has_head(values) else set()
            weights.check_names(names)
            names.add(OUTPUT)  # a file may hold a tied output layer a second time
            computed = {name: (weights.key(name), weights.dtype(name)) for name in weights if name in names}
        carried = {weights.key(name): _in_file(weights, name) for name in weights if name not in computed}
        return cls(values, computed, files, carried)

    @classmethod
    def of_config(cls, config: LlavaConfig, dtype: torch.dtype, files: tuple[Path, ...] = ()) -> Origin:
        """The form of a model that came from no folder; the tensors nobody computes are zeros, norms' weights ones."""
        name, torch_name = dtype_name(dtype), str(dtype).removeprefix("torch.")
        computed = {tensor: (file_name(tensor), name) for tensor in sorted(computed_names(config))}
        shapes = uncomputed_vision_shapes(config)
        carried = {file_name(tensor): _constant(tensor, shape, dtype) for tensor, shape in shapes.items()}
        return cls(hf_config_from_llava(config, torch_name), computed, files, carried)

    def save(self, folder: str | Path) -> None:
        """Write everything but the computed weights into an existing folder, for `of_folder`."""
        folder = Path(folder)
        for path in self.files:
            shutil.copyfile(path, folder / path.name)
        write_json(folder / "config.json", self.config)
        write_json(folder / ORIGIN_FILE, {"computed": self.computed})
        entries = list(self.carried_entries(None))
        with ShardWriter(folder, entries, CARRIED_STEM, max_shard_bytes=2**63) as writer:
            for entry in entries:
                writer.write(self.carried[entry.key].read())

    def carried_entries(self, dtype: torch.dtype | None) -> Iterator[Entry]:
        """The carried tensors, wide dtypes first; floating-point ones in `dtype` where it is given."""
        entries = []
        for key, tensor in self.carried.items():
            own = DTYPES[tensor.dtype]
            target = dtype if dtype is not None and own.is_floating_point else own
            entries.append(Entry(key, dtype_name(target), tensor.shape))
        yield from sorted(entries, key=lambda entry: -DTYPES[entry.dtype].itemsize)


def _in_file(files: WeightFiles, name: str) -> Carried:
    return Carried(files.shape(name), files.dtype(name), partial(files.read, name))


def _constant(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Carried:
    value = 1.0 if name.endswith(("norm1.weight", "norm2.weight", "layernorm.weight")) else 0.0
    return Carried(shape, dtype_name(dtype), partial(torch.full, shape, value, dtype=dtype))


def travelling_files(folder: str | Path) -> tuple[Path, ...]:
    """Tokenizer, processor, template, generation and licence files of a model folder."""
    found = {path for pattern in _TRAVELLING for path in Path(folder).glob(pattern) if path.is_file()}
    return tuple(sorted(path for path in found if path.name not in _OWN))


def computed_names(config: LlavaConfig) -> set[str]:
    """transformers' module names of the tensors that this engine computes."""
    return {piece.name for piece in weight_pieces(config, ParallelConfig())}


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write an object as transformers does: two spaces, keys sorted."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
