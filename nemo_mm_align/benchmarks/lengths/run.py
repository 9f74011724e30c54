"""The part as a whole: every model, recipe and precision, times in one process, memory of each line in another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from nemo_mm_align.benchmarks.lengths.settings import LengthsSize

logger = logging.getLogger(__name__)

LIMIT_SECONDS = 7200
"""That the times of one case may take."""
Measured = Callable[[str, dict[str, Any]], dict[str, Any]]


def has_bf16_units() -> bool:
    """Whether this processor multiplies in bf16: AVX512_BF16 or AMX, as torch sees it."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def measure_lengths(
    size: LengthsSize, models: Callable[[str], Mapping[str, Any]], loss: Mapping[str, Any], measured: Measured
) -> list[dict[str, Any]]:
    """Measure all cases.

    Args:
        models: ``sizes`` and ``folder`` of a model by its name.
        loss: of pairs.
        measured: runs a measurement of that name with settings in a process of its own.
    """
    results = []
    for name, case, precision, work in _works(size, models, loss):
        if precision == "bf16" and not has_bf16_units():
            logger.warning("%s, %s: this processor has no bf16 units, left out", name, case)
            continue
        found = measured("lengths_time", {"work": work})
        chosen = size.models[name].memory
        for line in found["lines"]:
            if line["has_memory"] and (chosen is None or line["name"] in chosen):
                line |= _memory(line, work, found, measured)
        results.append({"model": name, "case": case, "precision": precision, **found})
    return results


def _works(
    size: LengthsSize, models: Callable[[str], Mapping[str, Any]], loss: Mapping[str, Any]
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield model, case, precision and what the measurement of these is given."""
    for name, model in size.models.items():
        own = models(name)
        for key, case in model.cases.items():
            for precision in model.precisions:
                yield (
                    name,
                    key,
                    precision,
                    {
                        "recipe": case.recipe or key,
                        "sizes": own["sizes"],
                        "folder": own["folder"],
                        "distribution": size.distribution.model_dump(),
                        **case.model_dump(exclude={"recipe"}),
                        "rounds": model.rounds,
                        "precision": precision,
                        "lines": {line: found.model_dump() for line, found in size.lines[key].items()},
                        "pairs_loss": dict(loss),
                    },
                )


def _memory(
    line: Mapping[str, Any], work: dict[str, Any], found: Mapping[str, Any], measured: Measured
) -> dict[str, Any]:
    size = next(size for side, size in _longest_first(found["sizes"]) if line["name"].startswith(side))
    return measured("lengths_memory", {"work": work, "line": line["name"], "size": size})


def _longest_first(sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    """Sides by the length of their names: the name of one may begin another's."""
    return sorted(sizes.items(), key=lambda item: -len(item[0]))
