"""Passes of a model built for sequence parallelism that cannot split the sequence, such as those of one new position."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from nemo_mm_align.model.llava import Llava

_NAMES = ("sequence_parallel", "lora_sequence_parallel")


@contextmanager
def without_sequence_parallel(model: Llava) -> Iterator[None]:
    """Within the block, every rank computes the whole sequence; without gradients, whose reductions stay as they were built.

    Sequence parallelism changes what is exchanged between tensor-parallel ranks, not which weights they hold: layers look at a
    switch of theirs in every pass. megatron-core does the same for its own inference (`set_model_to_sequence_parallel`).
    """
    switched = [(owner, name) for owner in _owners(model) for name in _NAMES if vars(owner).get(name) is True]
    parallel = model.parallel
    for owner, name in switched:
        setattr(owner, name, False)
    model.parallel = replace(parallel, sequence_parallel=False)
    try:
        yield
    finally:
        model.parallel = parallel
        for owner, name in switched:
            setattr(owner, name, True)


def _owners(model: Llava) -> list[Any]:
    """Modules, and the configurations that they look at, each once."""
    found: dict[int, Any] = {}
    for module in model.modules():
        found[id(module)] = module
        config = vars(module).get("config")
        if hasattr(config, "sequence_parallel"):
            found[id(config)] = config
    return list(found.values())
