"""What a model's head tells of answers, or the hidden states that it reads: in batches, shared among all replicas.

Two stages go through here: the annotation of candidates by a model that was trained to rate, and the ridge probe on the
features of a frozen one.

Shapes: A answers of a sample, T outputs of the head, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from megatron.core import parallel_state
from torch import Tensor
from tqdm import tqdm

from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.collate import ImageLoader
from nemo_mm_align.datasets.rows import row_lengths
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.model.arithmetic import round_up, row_length_multiple
from nemo_mm_align.model.head_config import Pooling
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.objectives.objective import Reading, Reads
from nemo_mm_align.parallel import runtime
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.training.data import BatchShape, Collator
from nemo_mm_align.training.reference_passes import Passes
from nemo_mm_align.training.schedule import run_schedule

Quantity = Literal["outputs", "hidden"]

_PER_STAGE = 2
"""Micro batches in a pipeline per stage."""


@dataclass(frozen=True)
class Rater:
    """Reads answers with a model in any layout; every rank makes one and calls it with the same arguments.

    All answers of a sample lie in one row behind their common prompt, which is computed once.

    Args:
        model: this rank's pipeline stage, with a head where its outputs are asked for; sequence parallel or not.
        encoder: tokenizer and template of the model.
        image_processor: of the model's vision tower.
        pooling: which hidden state of an answer is read; of a model with a head, the head's own.
        quantity: ``outputs`` of the head, or the pooled ``hidden`` states themselves.
        max_batch_tokens: bound of rows x longest row of a batch; a batch has at least one row.
        load: from the name of a picture to its pixels, where they do not lie in files.

    Raises:
        ValueError: outputs of a model without a head.
    """

    model: Llava
    encoder: Encoder
    image_processor: ImageProcessor
    pooling: Pooling
    quantity: Quantity = "outputs"
    max_batch_tokens: int = 32768
    load: ImageLoader | None = None

    def __post_init__(self) -> None:
        if self.quantity == "outputs" and self.model.head_config is None:
            raise ValueError("outputs are asked for, but the model has no head")

    @property
    def width(self) -> int:
        """Numbers per answer: T or H."""
        head = self.model.head_config
        return len(head.outputs) if head is not None and self.quantity == "outputs" else self.model.config.hidden_size

    def row_length(self, sample: Sample) -> int:
        """Positions of a sample's row, as a batch pads it."""
        multiple = row_length_multiple(self.model.parallel, self.model.engine)
        return round_up(row_lengths(sample, True, last_token=True)[0], multiple)

    def stream(
        self, samples: Sequence[Sample], done: frozenset[int] = frozenset(), progress: bool = True
    ) -> Iterator[dict[int, Tensor]]:
        """Yield the values of samples by their index, as batches end.

        On rank 0 those of all replicas, fp32 [A, T] or [A, H] on the host; empty dictionaries elsewhere.

        Args:
            samples: the same on every rank; one sequence per answer, in any roles.
            done: indices that are not asked for; a batch of which only some are done is computed as a whole, so that a
                resumed run repeats the first one's numbers exactly.
            progress: show a bar on the first rank.
        """
        replicas, replica = runtime.data_parallel_size(), runtime.data_parallel_rank()
        batches = [batch for batch in self._plan(samples, replicas) if not done.issuperset(batch)]
        batches += [[]] * (-len(batches) % replicas)
        with tqdm(total=sum(map(len, batches)), desc="rating", disable=not progress or runtime.rank() != 0) as bar:
            for indices, schedules in self._collated(samples, batches[replica::replicas]):
                values = self._values(schedules)
                counts = [len(samples[index].sequences) for index in indices]
                gathered = _gather(dict(zip(indices, values.split(counts), strict=True)))
                bar.update(len(gathered))
                yield {index: value for index, value in gathered.items() if index not in done}

    def _plan(self, samples: Sequence[Sample], replicas: int) -> list[list[int]]:
        """Put samples of similar length together, the longest first, so that no replica goes without."""
        lengths = [self.row_length(sample) for sample in samples]
        share = -(-len(samples) // replicas)
        batches: list[list[int]] = []
        room = 0
        for index in sorted(range(len(samples)), key=lambda index: -lengths[index]):
            if room == 0:
                room = min(max(self.max_batch_tokens // lengths[index], 1), share)
                batches.append([])
            batches[-1].append(index)
            room -= 1
        return batches

    def _collated(
        self, samples: Sequence[Sample], batches: Sequence[list[int]]
    ) -> Iterator[tuple[list[int], list[list[Batch]]]]:
        """Make the next batch, images and all, while the model works on the present one."""
        multiple = row_length_multiple(self.model.parallel, self.model.engine)
        shape = BatchShape(multiple, shared_prefix=True, last_token=True)
        images = self.model.pre_process
        collator = Collator(self.encoder, self.image_processor, shape, with_images=images, load=self.load)
        stages = self.model.parallel.pipeline_model_parallel_size

        def make(batch: list[int]) -> list[list[Batch]]:
            if not batch:
                return []
            chosen = [samples[index] for index in batch]
            parts = 1 if stages == 1 else _PER_STAGE * stages
            passes, length = Passes(-(-len(chosen) // parts), parts), collator.length(chosen)
            return [[collator(part, length) for part in group] for group in passes.schedules(chosen)]

        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = [pool.submit(make, batch) for batch in batches[:1]]
            for place, batch in enumerate(batches):
                schedules = ahead.pop().result()
                ahead.extend(pool.submit(make, following) for following in batches[place + 1 : place + 2])
                yield batch, schedules

    @torch.no_grad()
    def _values(self, schedules: Sequence[Sequence[Batch]]) -> Tensor:
        """Return the values of all answers of some micro batches, in order, on every stage of the replica."""
        training = self.model.training
        self.model.eval()
        try:
            parts = [self._run(batches) for batches in schedules]
        finally:
            self.model.train(training)
        return torch.cat(parts).cpu() if parts else torch.empty(0, self.width)

    def _run(self, batches: Sequence[Batch]) -> Tensor:
        def read(reading: Reading, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
            values = reading.outputs_QT if self.quantity == "outputs" else reading.hidden_QH
            return values.float().sum(), torch.tensor(1, dtype=torch.int), values.float().clone()

        reports = run_schedule(self.model, batches, Reads(hidden=self.pooling), read, forward_only=True)
        count = sum(batch.num_sequences for batch in batches)
        values = torch.cat(reports) if reports else torch.empty(count, self.width, device=runtime.device())
        return runtime.broadcast_from_last_stage(values)


def rate_answers(rater: Rater, samples: Sequence[Sample], progress: bool = True) -> list[Tensor]:
    """Return the values of all samples in their order, [A, T] or [A, H] each, on rank 0; an empty list elsewhere."""
    found: dict[int, Tensor] = {}
    for batch in rater.stream(samples, progress=progress):
        found.update(batch)
    return [found[index] for index in sorted(found)]


def _gather(values: dict[int, Tensor]) -> dict[int, Tensor]:
    """Bring the replicas' values to rank 0; empty elsewhere."""
    if parallel_state.get_tensor_model_parallel_rank() or parallel_state.get_pipeline_model_parallel_rank():
        return {}
    if runtime.data_parallel_size() == 1:
        return values
    parts: list[dict[int, Tensor] | None] | None = (
        [None] * runtime.data_parallel_size() if runtime.rank() == 0 else None
    )
    torch.distributed.gather_object(values, parts, 0, group=parallel_state.get_data_parallel_group())
    return {index: value for part in parts or [] if part for index, value in part.items()}
