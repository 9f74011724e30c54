"""The benchmark as a whole: random models into a scratch folder, every measurement in turn, tables at the end."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.benchmarks import report
from nemo_mm_align.benchmarks.gpu.run import run as run_gpu
from nemo_mm_align.benchmarks.labeling import measure_labeling
from nemo_mm_align.benchmarks.launch import LIMIT_SECONDS, measure
from nemo_mm_align.benchmarks.lengths.run import LIMIT_SECONDS as LENGTHS_SECONDS
from nemo_mm_align.benchmarks.lengths.run import measure_lengths
from nemo_mm_align.benchmarks.machine import describe_machine
from nemo_mm_align.benchmarks.random_models import write_random_model
from nemo_mm_align.benchmarks.recipes import IMITATION, PREFERENCE
from nemo_mm_align.benchmarks.settings import (
    BenchmarkSettings,
    BenchmarkSize,
    PairsLoss,
    ServingMeasure,
    ServingMeasures,
)
from nemo_mm_align.core.atomic import write_json
from nemo_mm_align.core.configuration import StrictModel

logger = logging.getLogger(__name__)

LAYOUTS = {"1 process": (1, 1, 1), "TP2": (2, 1, 2), "PP2": (1, 2, 2), "DP2": (1, 1, 2)}
"""Name: tensor-parallel size, pipeline-parallel size, processes."""

COMMUNICATING: dict[int, dict[str, tuple[int, int, bool]]] = {
    2: {"TP2": (2, 1, False), "TP2 + SP": (2, 1, True), "PP2": (1, 2, False), "DP2": (1, 1, False)},
    4: {"TP2 + SP, PP2": (2, 2, True)},
}
"""Processes: name of a layout: tensor-parallel size, pipeline-parallel size, whether sequence parallel."""

SEED = 1234
_SERVING_SECONDS = 1800
"""That a measurement of the part `serving` may take, beside the minutes asked for."""


class Benchmark:
    """The measurements of one size in one scratch folder.

    Args:
        size: values of conf/benchmark/size/*.yaml.
        template: a chat template, which a checkpoint must have.
        scratch: folder for models; about three times the largest model is written there.
    """

    def __init__(self, size: BenchmarkSize, template: Mapping[str, Any], scratch: Path) -> None:
        self.size, self.template, self.scratch = size, dict(template), scratch

    def settings(self, model: str) -> dict[str, Any]:
        """What the measurements of one model need; its folders are written at the first call."""
        values = self.size.models[model]
        folder = self.scratch / model
        config = values.sizes
        for seed, name in enumerate(("policy", "reference")):
            if not (folder / name).exists():
                write_random_model(folder / name, config, seed)
        return {
            "sizes": config.to_dict(),
            "folder": str(folder),
            "pairs": {name: getattr(values, name) for name in ("pairs", "prompt_words", "answer_words")},
            "layout_pairs": values.layout_pairs,
            "rounds": values.rounds or self.size.rounds,
            "steps": self.size.layout_steps,
            "new_tokens": self.size.new_tokens,
            "batches": self.size.decoding_batches,
        }

    def training(self, loss: PairsLoss) -> list[dict[str, Any]]:
        """Pairs against TRL, SFT against transformers, with every number of threads."""
        asked = {"loss": loss.model_dump()}
        return [
            {"model": model, "method": method, **self._measured(method, {**self.settings(model), **asked}, threads)}
            for model in self.size.every_model
            for method in (PREFERENCE, IMITATION)
            for threads in self.size.threads
        ]

    def lengths(self, loss: PairsLoss) -> list[dict[str, Any]]:
        """Pairs, conditioned answers and single answers as unequally long as the paper's, of one thread."""
        return measure_lengths(
            self.size.lengths,
            self.settings,
            loss.model_dump(),
            lambda name, given: measure(name, given, threads=1, limit_s=LENGTHS_SECONDS),
        )

    def layouts(self) -> list[dict[str, Any]]:
        """One process with one thread and with all, then two processes of one thread each."""
        results = []
        for model in self.size.every_model:
            for name, (tensor, pipeline, processes) in LAYOUTS.items():
                for threads in self.size.threads if processes == 1 else [1]:
                    settings = {**self.settings(model), "layout": [tensor, pipeline]}
                    found = self._measured("layout", settings, threads, processes)
                    results.append({"model": model, "layout": name, **found})
        return results

    def communication(self) -> list[dict[str, Any]]:
        """What two and four ranks communicate in a step, in all layouts of so many one after the other."""
        results = []
        for model in self.size.communication.models:
            values = self.size.models[model]
            settings = {
                "folder": model,
                "sizes": values.sizes.to_dict(),
                "pairs": {"prompt_words": values.prompt_words, "answer_words": values.answer_words},
                "layout_pairs": values.layout_pairs,
                "communication": self.size.communication.model_dump(),
            }
            measured = [
                self._measured("communication", {**settings, "layouts": layouts}, 1, processes)
                for processes, layouts in COMMUNICATING.items()
            ]
            results.append({"model": model, "cases": [case for found in measured for case in found["cases"]]})
        return results

    def data(self) -> dict[str, Any]:
        """Pictures and texts to batches, against transformers' processor."""
        work = self.size.data
        with tempfile.TemporaryDirectory(dir=self.scratch) as pictures:
            own = {"data": work.model_dump(), "template": self.template, "scratch": pictures}
            return {"model": work.model, **self._measured("data", {**self.settings(work.model), **own}, 1)}

    def reference(self) -> list[dict[str, Any]]:
        """Time of both ways in one process, memory of each way in a process of its own."""
        results = []
        for model in self.size.every_model:
            settings = self.settings(model)
            found = self._measured("reference_time", settings, 1)
            peaks = {
                name: self._measured("reference", {**settings, "recompute": name == "recomputed"}, 1)["peak_bytes"]
                for name in ("recomputed", "cached")
            }
            results.append({"model": model, **found, "peak_bytes": peaks})
        return results

    def decoding(self) -> list[dict[str, Any]]:
        """Greedy answers against transformers' generate."""
        rounds = self.size.rounds
        return [
            {"model": model, **self._measured("decoding", {**self.settings(model), "rounds": rounds}, threads)}
            for model in self.size.every_model
            for threads in self.size.threads
        ]

    def sampling(self) -> list[dict[str, Any]]:
        """Rows refilled as they end against fixed batches, of one thread."""
        results = []
        for model in self.size.sampling.models:
            with tempfile.TemporaryDirectory(dir=self.scratch) as pictures:
                work = {"sampling": self.size.sampling.model_dump(), "template": self.template, "scratch": pictures}
                results.append({"model": model, **self._measured("sampling", {**self.settings(model), **work}, 1)})
        return results

    def serving(self, asked: ServingMeasures) -> dict[str, Any]:
        """Answers through a server: against transformers' generate, under load that does not wait, and its memory."""
        size = self.size.serving
        cases: dict[ServingMeasure, Mapping[str, StrictModel]] = {
            "against_transformers": size.against_transformers,
            "load": dict.fromkeys(size.load.models, size.load),
            "memory": {size.memory.model: size.memory},
        }
        return {
            name: [self._served(name, model, work, asked.minutes) for model, work in cases[name].items()]
            for name in asked.measures
        }

    def _served(self, name: ServingMeasure, model: str, work: StrictModel, minutes: float) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=self.scratch) as scratch:
            own = {"work": work.model_dump(), "scratch": scratch, "seed": SEED, "minutes": minutes}
            limit_s = _SERVING_SECONDS + 60 * minutes
            return {"model": model, **self._measured(name, {**self.settings(model), **own}, 1, limit_s=limit_s)}

    def conversion(self) -> list[dict[str, Any]]:
        """Import and export of a random bf16 folder, by way of a checkpoint and without, in one process and under TP2."""
        folder = self.scratch / "import"
        config = self.size.imported
        weights = write_random_model(folder, config, seed=0, dtype=torch.bfloat16)
        results = []
        for layout in ("1 process", "TP2"):
            tensor, pipeline, processes = LAYOUTS[layout]
            found: dict[str, Any] = {"layout": layout, "weights_bytes": weights}
            common = {"layout": [tensor, pipeline], "template": self.template}
            for steps in (["conversion"], ["checkpoint", "checkpoint_export"]):
                with tempfile.TemporaryDirectory(dir=self.scratch) as out:
                    source = folder
                    for name in steps:
                        made = Path(out) / name
                        settings = {**common, "folder": str(source), "out": str(made)}
                        found |= self._measured(name, settings, 1, processes)
                        source = made
            results.append(found)
        return results

    def labeling(self) -> dict[str, Any]:
        """The label command against a local judge server."""
        return measure_labeling(self.size.labeling.model_dump(), self.scratch)

    def _measured(
        self,
        name: str,
        settings: dict[str, Any],
        threads: int | None,
        processes: int = 1,
        limit_s: float = LIMIT_SECONDS,
    ) -> dict[str, Any]:
        logger.info("%s, %s, threads %s, processes %d", name, Path(settings["folder"]).name, threads, processes)
        return measure(name, settings, threads, processes, limit_s)


def run_benchmark(config: BenchmarkSettings) -> str:
    """Run the parts that conf/benchmark.yaml asks for; return the tables as Markdown."""
    with tempfile.TemporaryDirectory(dir=config.scratch) as scratch:
        benchmark = Benchmark(config.size, config.template, Path(scratch))
        parts: dict[str, Callable[[], Any]] = {
            "training": lambda: benchmark.training(config.loss),
            "lengths": lambda: benchmark.lengths(config.loss),
            "layouts": benchmark.layouts,
            "communication": benchmark.communication,
            "reference": benchmark.reference,
            "data": benchmark.data,
            "import": benchmark.conversion,
            "decoding": benchmark.decoding,
            "sampling": benchmark.sampling,
            "serving": lambda: benchmark.serving(config.serving),
            "labeling": benchmark.labeling,
            "gpu": lambda: run_gpu(config.gpu, " ".join(["python", *sys.argv])),
        }
        results: dict[str, Any] = {"machine": describe_machine(), "size": config.size.name}
        results |= {name: parts[name]() for name in config.parts}
    if config.out:
        write_json(config.out, results)
    return report.markdown(results)
