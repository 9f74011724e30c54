"""Step ``train``: DPO with LoRA in bf16, the most telling cases first."""

from __future__ import annotations

from nemo_mm_align.benchmarks.gpu.bench import TrainingBench, with_bench
from nemo_mm_align.benchmarks.gpu.levers import SETTINGS
from nemo_mm_align.benchmarks.gpu.records import Context
from nemo_mm_align.benchmarks.gpu.shapes import Rows

_FUSED = ("lora", "mlp", "rope")


def measure(context: Context) -> None:
    """Micro batches of 1 to 8 pairs, shared and separate rows, levers, new row lengths, recomputed layers."""
    with_bench(context, _cases)
    with_bench(context, lambda bench: bench.case(Rows(8), repeats=2), recompute="full")


def _cases(bench: TrainingBench) -> None:
    bench.case(Rows(2), profile=True)
    bench.case(Rows(4), profile=True)
    bench.case(Rows(1), profile=True)
    bench.case(Rows(2, shared=False))
    bench.case(Rows(8), repeats=2)
    bench.case(Rows(4), SETTINGS)
    for name in SETTINGS:
        bench.case(Rows(4), (name,), repeats=2)
    bench.case(Rows(2, multiple=64))
    bench.new_lengths(Rows(2), (1, 2, 3, 4, 5))
    bench.case(Rows(4), (*_FUSED, "no dropout"))
    bench.case(Rows(4, shared=False), repeats=2)
    bench.case(Rows(4), ("no dropout",))
    bench.case(Rows(2), ("cudnn",))
    bench.case(Rows(2), ("compiled swiglu",))
    bench.new_lengths(Rows(2), (6, 7, 8, 9), ("cudnn",))
