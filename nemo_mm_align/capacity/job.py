"""What is to be estimated: sizes, layout and row shapes of a training run, read from its configuration.

Shapes: B rows of a micro batch, S positions of a row, P labelled positions of a micro batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from pydantic import ConfigDict

from nemo_mm_align.core.configuration import STRICT, Count, read, read_known
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.arithmetic import (
    check_training,
    micro_batches_per_step,
    round_down,
    round_up,
    row_length_multiple,
)
from nemo_mm_align.model.config import EngineConfig, Lever, LlavaConfig, LoRAConfig, ParallelConfig
from nemo_mm_align.model.settings import ModelSettings, read_engine, read_model, sizes_of
from nemo_mm_align.objectives.objective import TOKEN_LOSSES, Objective, Reads
from nemo_mm_align.parallel.checkpoint_settings import CheckpointSettings
from nemo_mm_align.recipes.registry import find_recipe, read_recipe
from nemo_mm_align.recipes.spec import RecipeSpec
from nemo_mm_align.schema.attributes import AttributeSchema

ANSWER_TOKENS = 1024
"""Longest answer that is reckoned with: the paper samples at most so many new tokens."""
USUAL_PROMPT_TOKENS, USUAL_ANSWER_TOKENS = 60, 200
"""Of a question with its template, and of an answer: what time goes by, where memory goes by the longest."""


@dataclass(frozen=True)
class StartedRanks:
    """What a configuration says of the ranks that it is made for."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    num_nodes: Count | None = None
    devices: Count | None = None


@dataclass(frozen=True)
class Workload:
    """The longest rows that are reckoned with.

    Args:
        length: tokens of the longest sequence, image tokens included (``model.max_length``).
        answer_tokens: of them, tokens of the answer: the positions with a loss.
        images_per_sample: images of a sample.
    """

    length: int
    answer_tokens: int = ANSWER_TOKENS
    images_per_sample: int = 1

    @property
    def answer(self) -> int:
        """Answer tokens of the longest sequence; at most half of it where it is short."""
        return min(self.answer_tokens, self.length // 2)


@dataclass(frozen=True)
class TrainingJob:
    """A training run as far as memory and time depend on it.

    `distributed_optimizer` spreads the optimizer's state over data-parallel ranks; `fused_attention` says that attention
    never stores its scores (flash, memory-efficient and cuDNN kernels), `reads` what the recipe's objective reads, `outputs`
    how many numbers a head makes of a hidden state (0: there is none). With `micro_batch_tokens` a micro batch is one row of so
    many positions, in which samples lie one after the other, and `micro_batch_size` counts for nothing.
    What estimates ask for hundreds of times is derived once.
    """

    config: LlavaConfig
    parallel: ParallelConfig
    engine: EngineConfig
    lora: LoRAConfig | None
    method: str
    workload: Workload
    nodes: int
    gpus_per_node: int
    micro_batch_size: int
    global_batch_size: int
    shared_prefix: bool = False
    distributed_optimizer: bool = False
    train_language: bool = True
    train_projector: bool = True
    train_vision: bool = False
    fused_attention: bool = True
    keep_checkpoints: int = 2
    reads: Reads = TOKEN_LOSSES
    outputs: int = 0
    micro_batch_tokens: int | None = None

    @property
    def usual(self) -> TrainingJob:
        """The same with rows of usual length."""
        work = self.workload
        images = work.images_per_sample * self.config.tokens_per_image
        length = min(work.length, images + USUAL_PROMPT_TOKENS + USUAL_ANSWER_TOKENS)
        return replace(self, workload=replace(work, length=length, answer_tokens=min(work.answer, USUAL_ANSWER_TOKENS)))

    @property
    def world_size(self) -> int:
        """Ranks."""
        return self.nodes * self.gpus_per_node

    @cached_property
    def data_parallel_size(self) -> int:
        """Replicas of the model."""
        return self.parallel.data_parallel_size(self.world_size)

    @property
    def micro_batches(self) -> int:
        """Forward passes of one rank per optimizer step."""
        if self.micro_batch_tokens is None:
            return micro_batches_per_step(self.global_batch_size, self.micro_batch_size, self.data_parallel_size)
        return math.ceil(self.global_batch_size / self.data_parallel_size / self.samples)

    @property
    def element_bytes(self) -> int:
        """Bytes of a weight or an activation."""
        return 4 if self.engine.precision == "fp32" else 2

    @property
    def fp8(self) -> bool:
        """Whether matrix products of the decoder run in FP8."""
        return self.engine.fp8

    @property
    def kind(self) -> str:
        """What of the language model is trained, in a word: adapters or all of it."""
        return "LoRA" if self.lora else "full"

    @property
    def trains_language(self) -> bool:
        """Whether the language model's own weights are trained."""
        return self.train_language and self.lora is None

    @cached_property
    def length_multiple(self) -> int:
        """What row lengths are multiples of."""
        return row_length_multiple(self.parallel, self.engine)

    @cached_property
    def recipe(self) -> RecipeSpec:
        """The recipe of this name."""
        return find_recipe(self.method)

    @cached_property
    def sequences(self) -> int:
        """Sequences of a sample."""
        return self.recipe.samples.usual_sequences

    @cached_property
    def apart(self) -> int:
        """Sequences of a sample that see its images otherwise: they share no prefix, and the tower takes in what they see."""
        return self.recipe.samples.apart

    @cached_property
    def samples(self) -> float:
        """Samples of a micro batch; of a packed one, as many of the workload's as fill its row."""
        if self.micro_batch_tokens is None:
            return self.micro_batch_size
        return self.row_length / (self.sample_rows * self._sample_row_length)

    @cached_property
    def sample_rows(self) -> int:
        """Rows of a sample: one per sequence, unless its sequences share their prefix; packed, they lie in one."""
        return 1 + self.apart if self.has_shared_prefix else self.sequences

    @cached_property
    def rows(self) -> int:
        """B."""
        return self.micro_batch_size * self.sample_rows if self.micro_batch_tokens is None else 1

    @cached_property
    def has_shared_prefix(self) -> bool:
        """Whether several answers lie behind one prompt in a row."""
        return self.sequences - self.apart > 1 and self.shared_prefix

    @cached_property
    def has_trees(self) -> bool:
        """Whether several answers lie in a row, behind one prompt or behind several."""
        return self.has_shared_prefix or self.micro_batch_tokens is not None

    @cached_property
    def levers(self) -> frozenset[Lever]:
        """Names of the levers that are pulled: on a GPU, which is what is estimated."""
        return self.engine.levers.on("cuda")

    @cached_property
    def attends_by_trees(self) -> bool:
        """Whether attention goes by how rows are divided, without a mask."""
        return self.has_trees and "attention" in self.levers

    @cached_property
    def has_mask(self) -> bool:
        """Whether a row takes an explicit attention mask."""
        return self.has_trees and not self.attends_by_trees

    @property
    def attended(self) -> float:
        """Pairs of positions that attention computes for a micro batch; under a mask it computes those that are hidden too."""
        if self.has_mask or not self.has_trees:
            return self.rows * self.row_length**2 * (1.0 if self.has_mask else 0.5)
        length, answer = self.workload.length, self.workload.answer
        alone = length**2 / 2
        if not self.has_shared_prefix:
            return self.samples * self.sequences * alone
        further = (length - answer) * answer + answer**2 / 2  # of an answer behind a prefix that is there already
        return self.samples * ((1 + self.apart) * alone + (self.sequences - self.apart - 1) * further)

    @property
    def gathered_keys(self) -> float:
        """Keys that flash attention is given for a micro batch of trees: all there are, a prefix's again for further branches."""
        prefix = self._sample_row_length - (self._further + 1) * self.workload.answer
        return self.rows * self.row_length + self.samples * self._further * prefix

    @cached_property
    def _further(self) -> int:
        """Answers of a sample behind a prefix that is there already."""
        return self.sequences - self.apart - 1 if self.has_shared_prefix else 0

    @cached_property
    def _sample_row_length(self) -> int:
        """Positions of a sample's longest row; the last token of a sequence is left out where it would only be predicted from."""
        return self.workload.length - (self.reads.hidden is None) + self._further * self.workload.answer

    @cached_property
    def row_length(self) -> int:
        """S of the longest row."""
        if self.micro_batch_tokens is not None:
            return round_down(self.micro_batch_tokens, self.length_multiple)
        return round_up(self._sample_row_length, self.length_multiple)

    @property
    def state_bytes(self) -> int:
        """Bytes of the hidden states of a micro batch, whole: B x S x hidden width."""
        return self.rows * self.row_length * self.config.language.hidden_size * self.element_bytes

    @property
    def labelled(self) -> int:
        """P: positions whose logits are computed."""
        answers = self.samples * self.sequences
        return math.ceil(answers * self.workload.answer) if self.reads.token_losses else 0

    @property
    def labelled_bytes(self) -> int:
        """Bytes of the hidden states at labelled positions: P x hidden width."""
        return self.labelled * self.config.language.hidden_size * self.element_bytes

    @property
    def images(self) -> int:
        """Distinct images of a micro batch; the sequences of a sample share theirs, but for those that see parts of them.

        A packed row holds most of them where its samples are of usual length.
        """
        samples = self.samples if self.micro_batch_tokens is None else self.usual.samples
        return math.ceil(samples * self.workload.images_per_sample * (1 + self.apart))

    @property
    def padded(self) -> TrainingJob:
        """The same with micro batches of whole samples in rows of their own, as many as fit a packed one, at least one."""
        samples = max(1, math.floor(self.samples))
        return replace(self, micro_batch_size=samples, micro_batch_tokens=None)

    def check(self) -> None:
        """Check sizes, layout and batch arithmetic; raise `UserError` naming field and remedy."""
        check_training(
            self.config,
            self.parallel,
            self.engine,
            world_size=self.world_size,
            micro_batch_size=self.micro_batch_size,
            micro_batch_tokens=self.micro_batch_tokens,
            global_batch_size=self.global_batch_size,
            max_length=self.workload.length,
        )

    def with_layout(self, **changes: Any) -> TrainingJob:
        """Return the job with fields of its `ParallelConfig` changed."""
        return replace(self, parallel=replace(self.parallel, **changes))


def _section(values: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in values or values[key] == "???":
        raise UserError(f"{where}{key} has no value, but the estimate needs it.")
    return values[key]


def _ranks(values: Mapping[str, Any], nodes: int | None, gpus_per_node: int | None) -> tuple[int, int]:
    trainer = read_known(StartedRanks, values.get("trainer") or {}, "trainer")
    nodes, gpus_per_node = nodes or trainer.num_nodes, gpus_per_node or trainer.devices
    if not (nodes and gpus_per_node):
        raise UserError(
            "the number of GPUs is not known: choose an experiment, or give trainer.num_nodes and trainer.devices."
        )
    return nodes, gpus_per_node


def read_job(
    values: Mapping[str, Any],
    nodes: int | None = None,
    gpus_per_node: int | None = None,
    workload: Mapping[str, Any] | None = None,
) -> TrainingJob:
    """Read a composed conf/train.yaml as plain dictionaries; mandatory values that do not matter here may be missing.

    Args:
        values: ``OmegaConf.to_container(config, resolve=True)``.
        nodes, gpus_per_node: instead of ``trainer.num_nodes`` and ``trainer.devices``.
        workload: other values for `Workload`.

    Raises:
        UserError: a value is missing or out of range.
    """
    model = read_model(_section(values, "model", ""))
    recipe = read_recipe(_section(values, "recipe", ""))
    nodes, gpus_per_node = _ranks(values, nodes, gpus_per_node)
    changes = {key: value for key, value in (workload or {}).items() if value is not None}
    return job_of(
        model.settings,
        recipe,
        config=sizes_of(values["model"]),
        parallel=model.parallel,
        engine=read_engine(values),
        workload=replace(Workload(model.settings.max_length), **changes),
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        schema=read(AttributeSchema, schema, "attribute_schema")
        if (schema := values.get("attribute_schema"))
        else None,
        keep_checkpoints=read(CheckpointSettings, values.get("checkpoint") or {}, "checkpoint").keep,
    )


def job_of(model: ModelSettings, recipe: Objective, schema: AttributeSchema | None = None, **facts: Any) -> TrainingJob:
    """Return the job that typed settings describe.

    Args:
        schema: of the attributes that a head tells; without one there is no head.
        facts: of `TrainingJob`, what its other fields are.
    """
    head = None if schema is None else recipe.head(schema)
    return TrainingJob(
        outputs=len(head.outputs) if head is not None else 0,
        lora=model.lora,
        method=recipe.name,
        micro_batch_size=model.micro_batch_size,
        micro_batch_tokens=model.micro_batch_tokens,
        global_batch_size=model.global_batch_size,
        shared_prefix=recipe.rows_shared,
        reads=recipe.reads,
        distributed_optimizer=model.optim.use_distributed_optimizer,
        train_language=model.train.language,
        train_projector=model.train.projector,
        train_vision=model.train.vision,
        **facts,
    )
