"""conf/benchmark.yaml as a typed object."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from nemo_mm_align.benchmarks.gpu.options import Options
from nemo_mm_align.core.configuration import Count, Natural, Seconds, StrictModel
from nemo_mm_align.model.config import LlavaConfig

Part = Literal["training", "layouts", "reference", "import", "decoding", "sampling", "labeling", "gpu"]


class ModelSize(StrictModel):
    """One model of a size and the rows that it is measured with; `answer_words` are the least and the most."""

    sizes: LlavaConfig
    pairs: Count
    layout_pairs: Count
    prompt_words: Natural
    answer_words: tuple[Count, Count]
    rounds: Count | None = None


class SamplingSize(StrictModel):
    """How much is answered with rows refilled and in fixed batches; the comments of conf/size/full.yaml say what each means."""

    models: list[str]
    rounds: Count
    prompts: Count
    samples: Count
    most: Count
    slots: Count
    top_k: Natural
    stop_share: Annotated[float, Field(gt=0, lt=1)]


class LabelingSize(StrictModel):
    """How much is labelled against a local server."""

    measures: list[Literal["text", "images", "limit", "kills", "scale"]]
    delay_s: Seconds
    concurrency: Count
    processes: list[Count]
    text_prompts: Count
    image_prompts: Count
    limit_per_minute: Count
    limit_prompts: Count
    kill_prompts: Count
    kills: Count
    scale: list[Count]


class BenchmarkSize(StrictModel):
    """``conf/size/*.yaml``."""

    name: str
    rounds: Count
    threads: list[Count | None]
    layout_steps: Count
    new_tokens: Count
    decoding_batches: list[Count]
    sampling: SamplingSize
    models: dict[str, ModelSize]
    imported: Annotated[LlavaConfig, Field(alias="import")]
    labeling: LabelingSize


class BenchmarkSettings(StrictModel):
    """Settings of the benchmark; the comments of conf/benchmark.yaml say what each means."""

    parts: list[Part]
    out: Path | None = None
    scratch: Path | None = None
    size: BenchmarkSize
    template: dict[str, Any]
    gpu: Options = Options()
