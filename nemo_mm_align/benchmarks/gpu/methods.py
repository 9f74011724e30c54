"""Step ``methods``: the other recipes with LoRA, and full fine-tuning where memory allows."""

from __future__ import annotations

from nemo_mm_align.benchmarks.gpu import shapes
from nemo_mm_align.benchmarks.gpu.bench import TrainingBench, with_bench
from nemo_mm_align.benchmarks.gpu.records import Context
from nemo_mm_align.benchmarks.gpu.shapes import Rows


def measure(context: Context) -> None:
    """SFT, SteerLM, then full SFT and DPO; with half the layers too, which fits where the whole does not."""
    with_bench(context, _answers, method="sft")
    with_bench(context, _answers, method="steerlm")
    with_bench(context, _pairs, method="sft", lora=False)
    half = shapes.model_config(context.size).language.num_layers // 2
    with_bench(context, _pairs, method="sft", lora=False, layers=half)
    with_bench(context, lambda bench: bench.case(Rows(2), repeats=3), method="dpo", lora=False, layers=half)


def _answers(bench: TrainingBench) -> None:
    bench.case(Rows(4), repeats=3)


def _pairs(bench: TrainingBench) -> None:
    bench.case(Rows(4), repeats=3)
    bench.case(Rows(8), repeats=2)
