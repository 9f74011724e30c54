"""Step ``methods``: the other recipes with LoRA, and full fine-tuning where memory allows."""

from __future__ import annotations

from nemo_mm_align.benchmarks.gpu import shapes
from nemo_mm_align.benchmarks.gpu.bench import TrainingBench, with_bench
from nemo_mm_align.benchmarks.gpu.records import Context
from nemo_mm_align.benchmarks.gpu.shapes import Rows


def measure(context: Context) -> None:
    """SFT, SteerLM, full SFT and DPO with half the layers, full SFT of the whole, which most cards are too small for."""
    with_bench(context, _answers, method="sft")
    with_bench(context, _answers, method="steerlm")
    half = shapes.model_config(context.size).language.num_layers // 2
    with_bench(context, _full, method="sft", lora=False, layers=half)
    with_bench(context, lambda bench: bench.case(Rows(2)), method="dpo", lora=False, layers=half)
    with_bench(context, _full, method="sft", lora=False, recompute="full")


def _answers(bench: TrainingBench) -> None:
    bench.case(Rows(4))


def _full(bench: TrainingBench) -> None:
    bench.case(Rows(4))
    bench.case(Rows(8), repeats=2)
