"""Image sensitivity: what happens to the loss of some training samples when each gets the images of another one.

Shapes: B rows, S positions, N samples of the probe, M measures; the last dimension of two is (own, exchanged) images.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from megatron.core import parallel_state
from torch import Tensor

from nemo_mm_align.core.hashing import hash_text
from nemo_mm_align.core.run_health import ImageEffect
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.sample import ANSWER, Sample
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.objectives.common_metrics import common_metrics
from nemo_mm_align.objectives.objective import Objective, Reading
from nemo_mm_align.parallel import runtime
from nemo_mm_align.training.data import Collator
from nemo_mm_align.training.point import with_point
from nemo_mm_align.training.reference import sample_key
from nemo_mm_align.training.reference_passes import Passes
from nemo_mm_align.training.schedule import run_schedule

logger = logging.getLogger(__name__)

LOSS = "loss"


@dataclass(frozen=True)
class Exchange:
    """Places in the training data of a sample and of the one whose images it gets."""

    sample: int
    donor: int


def draw_exchanges(
    samples: Sequence[Sample], count: int, seed: int, hash_of: Callable[[Path], str]
) -> tuple[list[Exchange], str]:
    """Draw up to `count` samples with images and give each the images of another: as many, and others by their content.

    Within a number of images every set of them is given away once, so that both passes see the same images. Where more than
    half of the samples share one set, some of these are left out.

    Returns:
        The exchanges, and in words why there are none.
    """
    order = (int(place) for place in np.random.default_rng(seed).permutation(len(samples)))
    drawn: dict[int, dict[int, tuple[str, ...]]] = defaultdict(dict)  # number of images -> place -> their content
    with_images = ((place, paths) for place in order if (paths := samples[place].image_paths))
    for place, paths in islice(with_images, count):
        drawn[len(paths)][place] = tuple(map(hash_of, paths))
    if not drawn:
        return [], "the training data have no images"
    exchanges = [exchange for _, contents in sorted(drawn.items()) for exchange in _rotated(contents)]
    return exchanges, "" if exchanges else "no two samples with equally many images differ in them"


def _rotated(contents: dict[int, tuple[str, ...]]) -> list[Exchange]:
    """Sorted by content, whoever stands as far on as the most frequent content reaches has another one."""
    sizes = Counter(contents.values())
    most = max(sizes.values())
    common = max(sizes, key=lambda content: sizes[content])
    surplus = max(0, most - (len(contents) - most))
    dropped = [place for place, content in contents.items() if content == common][:surplus]
    kept = [place for place in contents if place not in dropped]
    ranked = sorted(kept, key=lambda place: (contents[place] != common, contents[place], place))
    return [Exchange(place, ranked[(i + most - surplus) % len(ranked)]) for i, place in enumerate(ranked)]


class ImageProbe:
    """Measures a fixed set of samples with their own images and with exchanged ones: forward passes, without dropout.

    Args:
        samples: the training data.
        exchanges: what is measured.
        collator: makes their batches.
        objective: whose loss it is.
        micro_batch_size: samples of a forward pass.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        exchanges: Sequence[Exchange],
        collator: Collator,
        objective: Objective,
        micro_batch_size: int,
    ) -> None:
        self.own = [samples[exchange.sample] for exchange in exchanges]
        donors = [samples[exchange.donor].image_paths for exchange in exchanges]
        self.exchanged = [replace(own, image_paths=paths) for own, paths in zip(self.own, donors, strict=True)]
        self.collator, self.objective, self.size = collator, objective, micro_batch_size
        self.without_images = copy.copy(collator)
        self.without_images.with_images = False
        roles = sorted({role for sample in self.own for role in sample.roles} - {ANSWER})
        self.roles = roles if objective.reads.token_losses else []

    @property
    def measures(self) -> list[str]:
        """Names of the M measures: the loss, and where answers have roles, each role's mean log-prob of a token."""
        return [LOSS, *(f"log_prob_{role}" for role in self.roles)]

    def key(self, weights: str, hash_of: Callable[[Path], str]) -> str:
        """Return what tells it from another: a hash of the weights it starts from, the samples and the objective."""
        keys = [sample_key(sample, hash_of) for sample in (*self.own, *self.exchanged)]
        text = json.dumps([weights, keys, asdict(self.objective)], sort_keys=True, default=str)
        return hash_text(text)

    @torch.no_grad()
    def measure(self, model: Llava) -> dict[str, ImageEffect]:
        """Return the effects by measure, the same on every rank; all ranks call it. Measures of no sample are left out."""
        training = model.training
        model.eval()
        values_NM2 = self._all_values(model)
        model.train(training)
        effects = {}
        for name, pairs in zip(self.measures, values_NM2.transpose(0, 1).tolist(), strict=True):
            known = [(own, exchanged) for own, exchanged in pairs if math.isfinite(own) and math.isfinite(exchanged)]
            if known:
                effects[name] = _effect(known, -1.0 if name == LOSS else 1.0)
        return effects

    def _all_values(self, model: Llava) -> Tensor:
        replicas, replica = runtime.data_parallel_size(), runtime.data_parallel_rank()
        mine = range(replica, len(self.own), replicas)
        values_NM2 = torch.zeros(len(self.own), len(self.measures), 2, dtype=torch.float64, device=runtime.device())
        for way, samples in enumerate((self.own, self.exchanged)):
            chosen = [samples[place] for place in mine]
            for place, values_M in zip(mine, self._values(model, chosen), strict=True):
                values_NM2[place, :, way] = values_M
        torch.distributed.all_reduce(values_NM2, group=parallel_state.get_data_parallel_group())
        return values_NM2

    def _values(self, model: Llava, samples: Sequence[Sample]) -> Iterator[Tensor]:
        """Yield the M measures of each sample, on every stage."""
        length = self.collator.length([*self.own, *self.exchanged])
        whole = Passes(self.size, max(1, len(samples) // self.size))
        for parts in whole.schedules(samples):
            waiting = iter(parts)
            reports = run_schedule(
                model,
                self.collator.batches(parts, length),
                self.objective.reads,
                lambda reading, batch: self._report(reading, batch, next(waiting), length),  # noqa: B023  # used up here
                forward_only=True,
            )
            count = sum(map(len, parts))
            values_NM = torch.zeros(count, len(self.measures), dtype=torch.float64, device=runtime.device())
            if reports:
                values_NM = torch.cat(reports)
            yield from runtime.broadcast_from_last_stage(values_NM)

    def _report(
        self, reading: Reading, batch: Batch, samples: Sequence[Sample], length: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = sequences = 0
        values = []
        for sample in samples:
            alone = with_point(self.objective, self.without_images([sample], length)).to(batch.labels_BS.device)
            end_row, end_sequence = rows + len(alone.labels_BS), sequences + alone.num_sequences
            values.append(self._measured(reading.part(slice(rows, end_row), slice(sequences, end_sequence)), alone))
            rows, sequences = end_row, end_sequence
        return torch.zeros((), device=batch.labels_BS.device), torch.tensor(1, dtype=torch.int), torch.stack(values)

    def _measured(self, reading: Reading, batch: Batch) -> Tensor:
        """Return the M measures of one sample; NaN where it has nothing to say."""
        total, weight = self.objective.loss(reading, batch).metrics[LOSS]
        told = common_metrics(self.objective.reads, reading, batch)
        nothing = torch.full_like(weight, math.nan)
        values = [total / weight]
        for role in self.roles:
            known = role in batch.roles
            values.append(told[f"logps/{role}"][0] / told[f"length_{role}"][0] if known else nothing)
        return torch.stack([value.double() for value in values])


def _effect(pairs: Sequence[tuple[float, float]], better: float) -> ImageEffect:
    """Summarise (own, exchanged) values; `better` is 1 where more is better, -1 where less is."""
    effects = [better * (own - exchanged) for own, exchanged in pairs]
    error = statistics.stdev(effects) / len(effects) ** 0.5 if len(effects) > 1 else None
    return ImageEffect(
        own=statistics.fmean(own for own, _ in pairs),
        exchanged=statistics.fmean(exchanged for _, exchanged in pairs),
        effect=statistics.fmean(effects),
        standard_error=error,
    )
