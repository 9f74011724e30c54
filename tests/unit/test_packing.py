"""Full rows: samples divided among replicas by work and among rows by length, and what such rows hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest

from nemo_mm_align.capacity.operations import Work
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.collate import collate
from nemo_mm_align.datasets.packing import balance, pack
from nemo_mm_align.datasets.rows import PADDING_SEGMENT
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.datasets.sampler import GlobalBatchSampler
from nemo_mm_align.model.attention import segment_mask
from nemo_mm_align.model.config import EngineConfig, ParallelConfig
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.schema.crops import Crop
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.schema.prompts import EncodedSequence
from nemo_mm_align.training.data import BatchShape, Collator, StepDataset
from nemo_mm_align.training.packing import Packing
from nemo_mm_align.training.packing_settings import check_budget, samples_of_padded_pass

IMAGE = 9


def pixels(path: Path, crop: Crop | None) -> numpy.ndarray:
    return numpy.full((3, 4, 4), float(path.stem) + (crop is not None) / 2, "float32")


def sample(name: str, prompt: list[int], *answers: list[int], images: Sequence[int] = ()) -> Sample:
    sequences = [EncodedSequence(prompt + ids, [False] * len(prompt) + [True] * len(ids)) for ids in answers]
    return Sample(name, [Path(f"{number}.png") for number in images], sequences)


def test_parts_are_as_even_as_exchanges_make_them() -> None:
    # Longest first puts 7 and 4 against 6 and 5, then one 3 to each; with two 3s for a 6, all parts have 14.
    assert balance([7, 6, 5, 4, 3, 3], 2) == [[0, 3, 4], [1, 2, 5]]
    # Longest first would leave 5+3+2 against 4+3.
    assert balance([5, 4, 3, 3, 2], 2) in ([[0, 2], [1, 3, 4]], [[0, 3], [1, 2, 4]])
    assert balance([0.9, 0.2], 2) == [[0], [1]], "0.2 + (0.9 - 0.2) is below 0.9 by rounding, which is no gain"
    assert pack([5, 5, 4, 3, 3], 10) == [[0, 1], [2, 3, 4]]
    assert pack([5, 5, 4, 3, 3], 7) == [[0], [1], [2], [3, 4]]
    sixteen = [1000] * 16
    assert [len(row) for row in pack(sixteen, 4096)] == [4] * 4 and [len(row) for row in pack(sixteen, 3999)] == [
        3,
        3,
        3,
        3,
        2,
        2,
    ]
    assert [len(row) for row in pack(sixteen, 3999, equal=True)] == [2] * 8
    with pytest.raises(ValueError, match="a sample of 8 positions does not fit a row of 7"):
        pack([3, 8], 7)


def test_samples_lie_in_one_row_as_trees_in_their_order() -> None:
    pair = replace(sample("pair", [1, IMAGE, 2], [3, 4], [5], images=[0]), reference_log_probs=[-1.0, -2.0])
    single = replace(sample("single", [6, IMAGE], [7], images=[1]), reference_log_probs=[-3.0])
    again = replace(sample("again", [8, IMAGE], [3], images=[0]), reference_log_probs=[-4.0])
    batch = collate([pair, single, again], 12, 0, IMAGE, 1, pixels, shared_prefix=True, packed=True)
    assert batch.input_ids_BS.tolist() == [[1, IMAGE, 2, 3, 2, 6, IMAGE, 8, IMAGE, 0, 0, 0]]
    assert batch.labels_BS.tolist() == [[-100, -100, 3, 4, 5, -100, 7, -100, 3, -100, -100, -100]]
    assert batch.position_ids_BS.tolist() == [[0, 1, 2, 3, 2, 0, 1, 0, 1, 0, 0, 0]]
    assert batch.segment_ids_BS.tolist() == [[0, 0, 1, 1, 2, 3, 3, 4, 4, -1, -1, -1]]
    assert batch.tree_ids_BS is not None and batch.tree_ids_BS.tolist() == [[0, 0, 0, 0, 0, 1, 1, 2, 2, -1, -1, -1]]
    assert batch.image_index_K is not None and batch.image_index_K.tolist() == [0, 1, 0], "in the order of the row"
    assert batch.reference_log_probs_Q is not None and batch.reference_log_probs_Q.tolist() == [-1, -2, -3, -4]
    assert (batch.places.lengths_Q.tolist(), batch.places.tree_Q.tolist()) == ([2, 1, 2, 2], [0, 0, 1, 2])
    seen = segment_mask(batch.segment_ids_BS, batch.tree_ids_BS)[0, 0]
    assert seen[4].nonzero().flatten().tolist() == [0, 1, 4] and seen[8].nonzero().flatten().tolist() == [7, 8]
    assert batch.roles["answer"].tolist() == [2, 3] and batch.roles["rejected"].tolist() == [1]


def test_a_sample_of_two_rows_becomes_two_trees() -> None:
    views = ((), (), (Crop(0.01, 0.2, 3),))
    three = replace(
        sample("three", [IMAGE, 1], [3], [4], [3], images=[0]), views=views, roles=("chosen", "rejected", "other")
    )
    batch = collate([three, sample("next", [2], [5])], 6, 0, IMAGE, 1, pixels, shared_prefix=True, packed=True)
    assert batch.segment_ids_BS.tolist() == [[0, 1, 2, 3, 3, 4]]
    assert batch.tree_ids_BS is not None and batch.tree_ids_BS.tolist() == [[0, 0, 0, 1, 1, 2]]
    assert batch.images_NCHW is not None and batch.images_NCHW[:, 0, 0, 0].tolist() == [0.0, 0.5]
    assert batch.image_index_K is not None and batch.image_index_K.tolist() == [0, 1]
    assert batch.roles["other"].tolist() == [2] and batch.sequence_counts == (3, 1)


def tokens(work: Work) -> float:
    return work.tokens


def step_batches(
    samples: Sequence[Sample], replicas: int, budget: int | None, pipeline: bool, step: int = 0, multiple: int = 1
) -> list[list[Batch]]:
    """The micro batches of a step on each replica, all of the samples in it."""
    encoder = SimpleNamespace(pad_id=0, image_token_id=-5, tokens_per_image=0)
    shape = BatchShape(multiple, shared_prefix=True, equal_rows=pipeline)
    collator = Collator(encoder, ImageProcessor(image_size=8), shape, with_images=False)  # type: ignore[arg-type]
    sampler = GlobalBatchSampler(len(samples), len(samples), None if budget else 4, replicas, seed=1)
    packing = Packing(budget, replicas, tokens, pipeline) if budget else None
    return [StepDataset(samples, sampler, collator, rank, packing=packing)[step].batches for rank in range(replicas)]


def efficiency(replicas: Sequence[Sequence[Batch]]) -> float:
    """Share of all computed positions that are no padding."""
    rows = [batch.segment_ids_BS for batches in replicas for batch in batches]
    return sum(int((row > PADDING_SEGMENT).sum()) for row in rows) / sum(row.numel() for row in rows)


def paper_like(answers: str, count: int = 128) -> list[Sample]:
    """Pairs behind an image and a question, about 650 tokens; answers of 100 to 300, 50 to 500, up to 1,024 with a heavy tail."""
    source = numpy.random.default_rng(0)

    def length() -> int:
        if answers == "even":
            return int(source.integers(50, 501))
        if answers == "short":
            return int(source.integers(100, 301))
        return int(numpy.clip(source.lognormal(numpy.log(180), 0.8), 50, 1024))

    return [sample(str(n), [1] * int(source.integers(635, 666)), [2] * length(), [3] * length()) for n in range(count)]


@pytest.mark.parametrize(("answers", "padded"), [("short", 0.88), ("even", 0.80), ("heavy tail", 0.60)])
def test_rows_are_95_percent_full_at_the_papers_lengths(answers: str, padded: float) -> None:
    samples = paper_like(answers)
    for replicas in (1, 8):
        assert efficiency(step_batches(samples, replicas, None, False)) < padded
        assert efficiency(step_batches(samples, replicas, 4096, False, multiple=16)) > 0.99
        for budget in (4096, 8192):
            assert efficiency(step_batches(samples, replicas, budget, True, multiple=16)) >= 0.95, (replicas, budget)


def test_every_sample_of_a_step_is_computed_once_whoever_asks_again() -> None:
    samples = paper_like("heavy tail", 24)
    packed, padded = step_batches(samples, 4, 4096, True, step=3), step_batches(samples, 2, None, False, step=3)
    for replicas in (packed, padded):
        names = [name for rank in replicas for batch in rank for name in batch.sample_ids]
        assert sorted(names, key=int) == [str(n) for n in range(24)]
    assert {rank[0].input_ids_BS.shape == batch.input_ids_BS.shape for rank in packed for batch in rank} == {True}
    assert all(batch.input_ids_BS.shape[0] == 1 and batch.input_ids_BS.shape[1] <= 4096 for b in packed for batch in b)
    again = step_batches(samples, 4, 4096, True, step=3)
    assert [[batch.sample_ids for batch in rank] for rank in again] == [[b.sample_ids for b in rank] for rank in packed]


def test_replicas_get_equal_work_not_equally_many_samples() -> None:
    works = [Work(n, n * n, 0, 0) for n in (900, 100, 100, 100, 100, 100, 100, 100)]
    packing = Packing(1000, 2, lambda work: work.tokens)
    assert packing.micro_batches(works, 0) == [[0]]
    assert packing.micro_batches(works, 1) == [[1, 2, 3, 4, 5, 6, 7]]
    even = [Work(n, 0, 0, 0) for n in (3, 1, 2, 2)]
    assert [packing.micro_batches(even, rank) for rank in (0, 1)] == [[[0, 1]], [[2, 3]]]
    squared = Packing(1000, 2, lambda work: work.attended)
    assert [sum(len(row) for row in squared.micro_batches(works, rank)) for rank in (0, 1)] == [1, 7]


def settings(tokens: int | None) -> SimpleNamespace:
    return SimpleNamespace(
        model=SimpleNamespace(micro_batch_tokens=tokens, micro_batch_size=3),
        recipe=find_recipe("dpo").configured(),
        parallel=ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True),
        engine=EngineConfig(),
    )


def test_a_sample_that_no_row_has_room_for_is_named() -> None:
    short, long = sample("short", [1, 2, 3], [4], [5]), sample("long", [1, 2, 3], [4, 5, 6, 7], [8, 9])
    check_budget(settings(None), [long])  # type: ignore[arg-type]
    check_budget(settings(8), [short, long])  # type: ignore[arg-type]  # 2 + 4 + 2 positions
    with pytest.raises(UserError) as caught:
        check_budget(settings(7), [short, long])  # type: ignore[arg-type]
    assert "model.micro_batch_tokens=7: 1 of 2 examples have more positions, the longest is long with 8" in str(
        caught.value
    )
    assert "at least 8, or leave long examples out" in str(caught.value)


def test_padded_passes_take_as_many_samples_as_the_budget_has_room_for() -> None:
    samples = [sample("short", [1, 2, 3], [4], [5]), sample("long", [1, 2, 3], [4, 5, 6, 7], [8, 9])]
    counts = [samples_of_padded_pass(settings(tokens), samples) for tokens in (None, 7, 8, 25)]  # type: ignore[arg-type]
    assert counts == [3, 1, 1, 3]


def test_padded_passes_are_as_wide_as_the_most_rows_and_the_longest_one() -> None:
    narrow, wide = sample("narrow", [1, 2, 3], list(range(21))), sample("wide", [1, 2], *[[4]] * 10)
    apart = settings(250)
    apart.recipe = replace(find_recipe("dpo").configured(), shared_prefix=False)
    assert samples_of_padded_pass(apart, [narrow]) == 250 // 24  # rows of 23, a multiple of TP 2
    assert samples_of_padded_pass(apart, [wide]) == 250 // (10 * 2)
    assert samples_of_padded_pass(apart, [narrow, wide]) == 1  # 10 rows of 24
