"""The exported folders that are pinned, and their digests; shared by maker and test."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

EXPORTS = ("whole", "apart", "merged")
"""The tiny model imported and exported again; the adapters of ``run`` by themselves; ``run`` merged into its base."""

CARD = "README.md"
"""Says in words what the other files are, versions of today included."""

SHORT = 4096
"""Bytes of a file below which its text is kept."""

BOUND = 1e-6
"""Relative to a tensor's size; its numbers are rounded to 6e-8."""

Digests = dict[str, Any]


def words(name: str, model: Path | str, run: Path | str, out: Path | str) -> list[list[str]]:
    """Words of the calls of `scripts/convert.py`, one after the other, that make ``out/NAME``."""
    made = f"out={out}/{name}"
    if name == "whole":
        imported = f"{out}/imported"
        first = ["direction=import", f"source={model}", f"out={imported}", "template=vicuna_v1"]
        return [first, ["direction=export", f"source={imported}", made]]
    adapters = {"apart": ["adapters=apart"], "merged": ["dtype=fp32"]}[name]
    return [["direction=export", f"source={run}", f"base={model}", made, *adapters]]


def digests(folder: Path, base: Path, model: Path | str) -> Digests:
    """Return what tells a folder from another, as ``file`` or ``file tensor`` -> text or numbers.

    Of short files it is their text, of others a hash, of weights a hash per tensor. A tensor that is the base's plus a product
    of adapters is not the same to the bit on every CPU: of it count, in float64, its sum, its sum of squares, and the sum with
    alternating signs.

    Args:
        base: file of weights whose tensors may have been changed by a product.
        model: where the base lay, which exported adapters name.
    """
    found: Digests = {}
    known = load_file(base)
    for path in sorted(path for path in folder.iterdir() if path.name != CARD):
        if path.suffix == ".safetensors":
            found |= {f"{path.name} {name}": _tensor(name, value, known) for name, value in load_file(path).items()}
        else:
            found[path.name] = _text(path.read_bytes().replace(str(model).encode(), b"MODEL"))
    return found


def _text(content: bytes) -> str:
    return content.decode() if len(content) < SHORT else hashlib.sha256(content).hexdigest()


def _tensor(name: str, tensor: Any, base: dict[str, Any]) -> list[Any]:
    form = f"{tensor.dtype} {list(tensor.shape)}"
    if name not in base or tensor.equal(base[name]):
        return [form, hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:32]]
    values = tensor.double().flatten()
    signs = values.new_ones(len(values))
    signs[::2] = -1
    return [form, float(values.sum()), float((values * signs).sum()), float((values * values).sum())]


def same(old: Any, new: Any) -> bool:
    """Whether two values of `digests` are of the same file or tensor, up to the rounding of a product."""
    if not isinstance(old, list) or not isinstance(new, list) or len(old) != 4 or len(new) != 4:
        return bool(old == new)
    size = math.prod(json.loads(old[0].split(" ", 1)[1]))
    scale = [math.sqrt(size * old[3])] * 2 + [old[3]]
    return old[0] == new[0] and all(
        abs(a - b) <= BOUND * unit for a, b, unit in zip(old[1:], new[1:], scale, strict=True)
    )


def as_json(found: dict[str, Digests]) -> str:
    """One line per file or tensor."""
    folders = [
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(values.items()))
        + "\n }"
        for name, values in found.items()
    ]
    return "{\n" + ",\n".join(folders) + "\n}\n"
