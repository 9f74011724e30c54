"""Step ``methods``: the other recipes with LoRA, and full fine-tuning where memory allows."""

from __future__ import annotations

from nemo_mm_align.benchmarks.gpu import shapes
from nemo_mm_align.benchmarks.gpu.bench import TrainingBench, with_bench
from nemo_mm_align.benchmarks.gpu.records import Context
from nemo_mm_align.benchmarks.gpu.shapes import Rows
from nemo_mm_align.benchmarks.recipes import CONDITIONED, IMITATION, PREFERENCE


def measure(context: Context) -> None:
    """SFT, SteerLM, full SFT and DPO with half the layers, full SFT of the whole, which most cards are too small for."""
    with_bench(context, _answers, method=IMITATION)
    with_bench(context, _answers, method=CONDITIONED)
    half = shapes.model_config(context.size).language.num_layers // 2
    with_bench(context, _full, method=IMITATION, lora=False, layers=half)
    with_bench(context, lambda bench: bench.case(Rows(2)), method=PREFERENCE, lora=False, layers=half)
    with_bench(context, _full, method=IMITATION, lora=False, recompute="full")


def _answers(bench: TrainingBench) -> None:
    bench.case(Rows(4))


def _full(bench: TrainingBench) -> None:
    bench.case(Rows(4))
    bench.case(Rows(8), repeats=2)
