"""conf/benchmark.yaml as a typed object."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from nemo_mm_align.benchmarks.gpu.options import Options
from nemo_mm_align.benchmarks.lengths.settings import LengthsSize
from nemo_mm_align.capacity.gpus import find_gpu
from nemo_mm_align.core.configuration import Count, Natural, NotNegative, Positive, Seconds, StrictModel
from nemo_mm_align.model.config import LlavaConfig

Part = Literal[
    "training",
    "lengths",
    "layouts",
    "communication",
    "reference",
    "data",
    "import",
    "decoding",
    "sampling",
    "serving",
    "labeling",
    "gpu",
]
ServingMeasure = Literal["against_transformers", "load", "memory"]


class ModelSize(StrictModel):
    """One model of a size and the rows that it is measured with; `answer_words` are the least and the most.

    One that is `only_served` is no matter to parts that measure every model.
    """

    sizes: LlavaConfig
    pairs: Count
    layout_pairs: Count
    prompt_words: Natural
    answer_words: tuple[Count, Count]
    rounds: Count | None = None
    only_served: bool = False


class CommunicationSize(StrictModel):
    """Of which models what ranks communicate is counted; see the comments of conf/benchmark/size/full.yaml."""

    models: list[str]
    micro_batches: Count
    lora_rank: Count


class DataSize(StrictModel):
    """How many pictures and texts become batches, likewise."""

    model: str
    pictures: Count
    width: Count
    height: Count
    batch: Count
    workers: list[Natural]
    rounds: Count
    gpu: Annotated[str, AfterValidator(lambda name: find_gpu(name).name)]
    micro_batch: Count


class SamplingSize(StrictModel):
    """How much is answered with rows refilled and in fixed batches; see the comments of conf/benchmark/size/full.yaml."""

    models: list[str]
    rounds: Count
    prompts: Count
    samples: Count
    most: Count
    slots: Count
    top_k: Natural
    stop_share: Annotated[float, Field(gt=0, lt=1)]


class AnsweringSize(StrictModel):
    """What one model is asked through the server and by transformers; see the comments of conf/benchmark/size/full.yaml."""

    rounds: Count
    question_words: tuple[Count, Count]
    new_tokens: Count
    distinct: list[Count]
    repeated: list[Count]
    conversations: list[Count]


class LoadSize(StrictModel):
    """Load that does not wait for answers, likewise."""

    models: list[str]
    slots: Count
    question_words: tuple[Count, Count]
    answer_tokens: tuple[Count, Count]
    shares: list[Annotated[float, Field(gt=0)]]
    capacity_s: Positive
    level_s: Positive


class MemorySize(StrictModel):
    """Load under which memory is watched, likewise."""

    model: str
    slots: Count
    clients: Count
    pictures: Count
    question_words: tuple[Count, Count]
    tokens: Count


class ServingSize(StrictModel):
    """How much is asked of a server."""

    against_transformers: dict[str, AnsweringSize]
    load: LoadSize
    memory: MemorySize


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
    """``conf/benchmark/size/*.yaml``."""

    name: str
    rounds: Count
    threads: list[Count | None]
    layout_steps: Count
    new_tokens: Count
    decoding_batches: list[Count]
    communication: CommunicationSize
    data: DataSize
    sampling: SamplingSize
    models: dict[str, ModelSize]
    lengths: LengthsSize
    serving: ServingSize
    imported: Annotated[LlavaConfig, Field(alias="import")]
    labeling: LabelingSize

    @property
    def every_model(self) -> list[str]:
        """Names of the models that parts are about which name none."""
        return [name for name, model in self.models.items() if not model.only_served]


class PairsLoss(StrictModel):
    """The loss of the part training on pairs, under names that our recipe and TRL's DPOConfig share; see conf/benchmark.yaml."""

    beta: Positive = 0.1
    loss_type: str | list[str] = "sigmoid"
    loss_weights: list[float] | None = None
    label_smoothing: NotNegative = 0.0


class ServingMeasures(StrictModel):
    """What is measured of a server; the comments of conf/benchmark.yaml say what each means."""

    measures: list[ServingMeasure] = ["against_transformers", "load", "memory"]
    minutes: Positive = 1.0


class BenchmarkSettings(StrictModel):
    """Settings of the benchmark; the comments of conf/benchmark.yaml say what each means."""

    parts: list[Part]
    out: Path | None = None
    scratch: Path | None = None
    size: BenchmarkSize
    template: dict[str, Any]
    loss: PairsLoss = PairsLoss()
    serving: ServingMeasures = ServingMeasures()
    gpu: Options = Options()
