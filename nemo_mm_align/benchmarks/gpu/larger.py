"""Step ``train_13b``: DPO with LoRA of the 13B shape."""

from __future__ import annotations

from nemo_mm_align.benchmarks.gpu.bench import TrainingBench, with_bench
from nemo_mm_align.benchmarks.gpu.levers import SETTINGS
from nemo_mm_align.benchmarks.gpu.records import Context
from nemo_mm_align.benchmarks.gpu.shapes import Rows


def measure(context: Context) -> None:
    """In bf16, then in FP8 scaled by tensors."""
    with_bench(context, _cases)
    with_bench(context, _large, precision="fp8_tensorwise")


def _cases(bench: TrainingBench) -> None:
    bench.case(Rows(4), profile=True)
    _large(bench)
    bench.case(Rows(4), SETTINGS)
    bench.case(Rows(2))
    bench.case(Rows(1))


def _large(bench: TrainingBench) -> None:
    bench.case(Rows(8), repeats=2)
    bench.case(Rows(4))
