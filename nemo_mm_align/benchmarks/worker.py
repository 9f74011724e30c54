"""One measurement in a process of its own: ``python -m nemo_mm_align.benchmarks.worker NAME SETTINGS.json OUT.json``.

Peak memory, thread counts and process groups belong to a process; so does each measurement.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, cast, get_args

from nemo_mm_align.benchmarks.recipes import IMITATION, PREFERENCE
from nemo_mm_align.benchmarks.settings import ServingMeasure

_Measurement = Callable[[dict[str, Any]], dict[str, Any]]


def measurement(name: str) -> _Measurement:
    """The function called `name`; only its own imports are paid for."""
    if name in (PREFERENCE, IMITATION):
        from nemo_mm_align.benchmarks import training

        return training.measure_preference if name == PREFERENCE else training.measure_imitation
    if name in ("lengths_time", "lengths_memory"):
        module = import_module(f"nemo_mm_align.benchmarks.lengths.{'measure' if name == 'lengths_time' else 'memory'}")
        return cast(_Measurement, module.measure_time if name == "lengths_time" else module.measure_memory)
    if name == "decoding":
        from nemo_mm_align.benchmarks import decoding

        return decoding.measure
    if name == "sampling":
        from nemo_mm_align.benchmarks import refilling

        return refilling.measure
    if name in get_args(ServingMeasure):
        return cast(_Measurement, import_module(f"nemo_mm_align.benchmarks.serving.{name}").measure)
    if name in ("communication", "data"):
        return cast(_Measurement, import_module(f"nemo_mm_align.benchmarks.{name}").measure)
    if name == "layout":
        from nemo_mm_align.benchmarks import layouts

        return layouts.measure_layout
    if name in ("reference", "reference_time"):
        from nemo_mm_align.benchmarks import layouts

        return layouts.measure_reference if name == "reference" else layouts.measure_reference_time
    if name in ("conversion", "checkpoint", "checkpoint_export"):
        from nemo_mm_align.benchmarks import conversion

        return {
            "conversion": conversion.measure,
            "checkpoint": conversion.measure_checkpoint,
            "checkpoint_export": conversion.measure_checkpoint_export,
        }[name]
    raise ValueError(f"no measurement {name!r}")


def main() -> None:
    """Measure; rank 0 writes the result."""
    name, settings, out = sys.argv[1:]
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    result = measurement(name)(json.loads(Path(settings).read_text(encoding="utf-8")))
    from nemo_mm_align.parallel import runtime  # not before: a peer's memory is measured without the engine's libraries

    if runtime.rank() == 0:
        Path(out).write_text(json.dumps(result), encoding="utf-8")
    runtime.shutdown()


if __name__ == "__main__":
    main()
