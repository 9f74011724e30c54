"""Batches: rows, shared prefixes, the sampler that makes steps."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.collate import collate
from nemo_mm_align.datasets.rows import batch_length, row_lengths, shared_prefix_length
from nemo_mm_align.datasets.sample import Sample, SampleStore
from nemo_mm_align.datasets.sampler import GlobalBatchSampler
from nemo_mm_align.model.attention import segment_mask
from nemo_mm_align.objectives.objective import Reads
from nemo_mm_align.schema.prompts import EncodedSequence
from nemo_mm_align.training.reading import pool
from nemo_mm_align.training.work import work_of

IMAGE = 9


def sequence(prompt: list[int], answer: list[int]) -> EncodedSequence:
    return EncodedSequence(prompt + answer, [False] * len(prompt) + [True] * len(answer))


def pair(prompt: list[int], chosen: list[int], rejected: list[int], images: int = 0) -> Sample:
    paths = [Path(f"{index}.png") for index in range(images)]
    return Sample("p", paths, [sequence(prompt, chosen), sequence(prompt, rejected)], [-1.0, -2.0])


def build(samples: list[Sample], length: int, **options: object) -> object:
    return collate(samples, length, 0, IMAGE, 2, lambda path, crop: numpy.ones((3, 4, 4), "float32"), **options)


def test_plain_rows_predict_the_next_token_and_pad_on_the_right() -> None:
    batch = build([Sample("s", [], [sequence([1, 2], [3, 4])])], 5)
    assert batch.input_ids_BS.tolist() == [[1, 2, 3, 0, 0]]
    assert batch.labels_BS.tolist() == [[-100, 3, 4, -100, -100]]
    assert batch.segment_ids_BS.tolist() == [[1, 1, 1, -1, -1]]
    assert (batch.num_sequences, batch.num_answer_tokens) == (1, 2)
    assert not batch.places.has_branches  # plain causal attention will do


def test_shared_prefix_row_restarts_positions_and_hides_branches_from_each_other() -> None:
    sample = pair([1, 2, 3], [4, 5], [6, 7, 8])
    assert shared_prefix_length(sample.sequences) == 2  # the last prompt token predicts, so each branch has it
    assert row_lengths(sample, True) == [7]
    batch = build([sample], 8, shared_prefix=True)
    assert batch.input_ids_BS.tolist() == [[1, 2, 3, 4, 3, 6, 7, 0]]
    assert batch.labels_BS.tolist() == [[-100, -100, 4, 5, 6, 7, 8, -100]]
    assert batch.position_ids_BS.tolist() == [[0, 1, 2, 3, 2, 3, 4, 0]]
    assert batch.places.answer_A.tolist() == [2, 3, 4, 5, 6] and batch.places.lengths_Q.tolist() == [2, 3]
    assert batch.places.has_branches
    mask = segment_mask(batch.segment_ids_BS)
    allowed = mask[0, 0].int()
    assert allowed[3].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert allowed[5].tolist() == [1, 1, 0, 0, 1, 1, 0, 0]
    assert allowed.diagonal().all()  # a padded row of nothing would be NaN


def test_prefix_ends_where_prompts_differ() -> None:
    sequences = [sequence([1, 2, 3, 4], [5]), sequence([1, 2, 7, 4], [5])]
    assert shared_prefix_length(sequences) == 2


def test_rows_of_padding_fill_a_micro_batch_up() -> None:
    samples = [Sample("one", [], [sequence([1, 2], [3])]), Sample("two", [], [sequence([1], [4]), sequence([1], [5])])]
    one, two = build(samples[:1], 2, least_rows=2), build(samples[1:], 2, least_rows=2)
    assert one.input_ids_BS.tolist() == [[1, 2], [0, 0]] and one.segment_ids_BS.tolist() == [[1, 1], [-1, -1]]
    assert one.input_ids_BS.shape == two.input_ids_BS.shape
    assert (one.num_sequences, two.num_sequences, one.places.has_branches) == (1, 2, False)


def test_an_image_of_two_rows_is_loaded_once() -> None:
    batch = build([pair([IMAGE, IMAGE, 2], [4], [6], images=1)], 4)
    assert batch.images_NCHW.shape == (1, 3, 4, 4)
    assert batch.image_index_K.tolist() == [0, 0]
    assert batch.reference_log_probs_Q.tolist() == [-1.0, -2.0]


def test_the_last_token_is_kept_where_it_is_read() -> None:
    sample = pair([1, 2, 3], [4, 5], [6, 7, 8])
    assert row_lengths(sample, False, last_token=True) == [5, 6] and row_lengths(sample, True, last_token=True) == [9]
    assert batch_length([sample], multiple=4, last_token=True) == 8
    rows = build([sample], 6, last_token=True)
    assert rows.input_ids_BS.tolist() == [[1, 2, 3, 4, 5, 0], [1, 2, 3, 6, 7, 8]]
    assert rows.labels_BS.tolist() == [[-100, -100, 4, 5, -100, -100], [-100, -100, 6, 7, 8, -100]]
    assert rows.places.last_Q.tolist() == [4 * 2, 5 * 2 + 1], "in the flattened [S, B]"
    packed = build([sample], 9, shared_prefix=True, last_token=True)
    assert packed.input_ids_BS.tolist() == [[1, 2, 3, 4, 5, 3, 6, 7, 8]]
    assert packed.places.last_Q.tolist() == [4, 8]
    work = [work_of([sample], shared, Reads(hidden="last")) for shared in (False, True)]
    assert [(part.tokens, part.labelled) for part in work] == [(11, 0), (9, 0)]
    assert (work_of([sample], True).tokens, work_of([sample], True).labelled) == (7, 5)


def test_hidden_states_are_pooled_per_sequence() -> None:
    sample, other = pair([1, 2, 3], [4, 5], [6, 7, 8]), Sample("s", [], [sequence([1, 2], [3])])
    rows = build([replace(sample, reference_log_probs=None), other], 7, last_token=True)
    hidden_SBH = torch.arange(7 * 3 * 2, dtype=torch.float64).view(7, 3, 2)
    by_row = hidden_SBH.transpose(0, 1)
    assert torch.equal(pool(hidden_SBH, rows, "last"), torch.stack([by_row[0, 4], by_row[1, 5], by_row[2, 2]]))
    means = [by_row[0, :5].mean(0), by_row[1, :6].mean(0), by_row[2, :3].mean(0)]
    assert torch.equal(pool(hidden_SBH, rows, "mean"), torch.stack(means).float())


def test_a_mean_takes_in_the_prompt_however_answers_are_laid_out() -> None:
    samples = [pair([1, 2, 3], [4, 5], [6, 7, 8]), pair([1], [4], [5]), Sample("s", [], [sequence([1, 2], [3])])]
    unreferenced = [replace(sample, reference_log_probs=None) for sample in samples]
    packed = build(unreferenced, 9, shared_prefix=True, last_token=True)
    hidden_SBH = torch.randn(9, 3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    row_SH = hidden_SBH[:, 0]  # tokens 1 and 2 are shared; each answer has its own 3, which predicts its first token
    means = [row_SH[:5].mean(0), torch.cat([row_SH[:2], row_SH[5:9]]).mean(0)]
    means += [hidden_SBH[:2, 1].mean(0), hidden_SBH[2:4, 1].mean(0), hidden_SBH[:3, 2].mean(0)]
    found = pool(hidden_SBH, packed, "mean")
    torch.testing.assert_close(found, torch.stack(means))
    (gradient_SBH,) = torch.autograd.grad(found[:2].sum(), hidden_SBH)
    torch.testing.assert_close(gradient_SBH[0, 0], torch.full((2,), 1 / 5 + 1 / 6)), "both answers see the prefix"


def test_trees_of_one_row_see_nothing_of_each_other() -> None:
    segments = torch.tensor([[0, 0, 1, 1, 2, 0, 3, 4, 5, -1], [1, 1, -1, -1, -1, -1, -1, -1, -1, -1]])
    trees = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 2, -1], [0, 0, -1, -1, -1, -1, -1, -1, -1, -1]])
    batch = Batch(segments, segments, segments, segments, None, None, ("a", "b", "c", "d"), tree_ids_BS=trees)
    seen = [row.nonzero().flatten().tolist() for row in segment_mask(segments, trees)[0, 0]]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [5], [5, 6], [5, 7], [8], [9]]
    places = batch.places
    assert (places.lengths_Q.tolist(), places.tree_Q.tolist()) == ([2, 1, 1, 1, 1, 2], [0, 0, 1, 1, 2, 3])
    assert places.prefix_lengths_T.tolist() == [2, 1, 0, 0] and places.has_branches
    hidden_SBH = torch.randn(10, 2, 2, generator=torch.Generator().manual_seed(0))
    of_row = [[0, 1, 2, 3], [0, 1, 4], [5, 6], [5, 7], [8]]
    means = [hidden_SBH[positions, 0].mean(0) for positions in of_row] + [hidden_SBH[:2, 1].mean(0)]
    torch.testing.assert_close(pool(hidden_SBH, batch, "mean"), torch.stack(means))


def test_samples_of_any_number_of_sequences_keep_roles_and_targets() -> None:
    one = Sample("one", [], [sequence([1], [answer]) for answer in (2, 3, 4)], targets=[[1.0], [2.0], [math.nan]])
    roles = ("chosen", "rejected", "chosen under another line", "rejected under another line")
    four = Sample("four", [], [sequence([1], [answer]) for answer in (5, 6, 7, 8)], None, roles, [[3.0]] * 4)
    store = SampleStore([one, four])
    assert (store[0].roles, store[1].roles) == (("candidate",) * 3, roles) and store[1].targets == [[3.0]] * 4
    batch = build(list(store), 1)
    assert batch.sequence_counts == (3, 4)
    assert batch.targets_QT.isnan().flatten().tolist() == [False, False, True, False, False, False, False]
    numbers_Q = torch.arange(7)
    assert batch.of_role("candidate", numbers_Q).tolist() == [0, 1, 2]
    assert batch.of_role("rejected under another line", numbers_Q).tolist() == [6]
    with pytest.raises(ValueError, match="no sequence of the micro batch is better; its roles are candidate, chosen"):
        batch.of_role("better", numbers_Q)
    assert batch.to("cpu").roles["chosen"].tolist() == [3]
    assert build([one], 1, roles=("better",)).of_role("better", numbers_Q[:3]).tolist() == [], (
        "none here, others have one"
    )
    with pytest.raises(ValueError, match="sample wide: 2 targets per sequence, sample one 1; a missing one is NaN"):
        store.append(Sample("wide", [], [sequence([1], [2])], targets=[[1.0, 2.0]]))
    with pytest.raises(ValueError, match="1 of 2 samples of the micro batch have no targets"):
        build([one, Sample("none", [], [sequence([1], [2])])], 1)
    with pytest.raises(ValueError, match="sample odd: 1 roles for 2 sequences"):
        Sample("odd", [], [sequence([1], [2])] * 2, roles=("answer",))


def test_roles_and_targets_belong_to_the_identity_of_data_and_usual_ones_change_nothing() -> None:
    def fingerprint(**more: object) -> str:
        return SampleStore([Sample("a", [], [sequence([1], [2]), sequence([1], [3])], **more)]).fingerprint()

    assert fingerprint() == fingerprint(roles=("chosen", "rejected")) == "16535bff6829dc93"
    others = {
        fingerprint(roles=("rejected", "chosen")),
        fingerprint(targets=[[1.0], [2.0]]),
        fingerprint(targets=[[1.0], [3.0]]),
    }
    assert len(others | {fingerprint()}) == 4


def test_faults_are_named() -> None:
    with pytest.raises(ValueError, match="sample p: 1 image tokens for 1 images"):
        build([pair([IMAGE, 2], [4], [6], images=1)], 9)
    with pytest.raises(ValueError, match="does not fit"):
        build([pair([1, 2], [4, 4], [6])], 2)


def test_sampler_shows_every_sample_once_per_epoch_and_fills_the_last_batch_from_the_next() -> None:
    sampler = GlobalBatchSampler(10, 4, 1, 2, seed=3)
    assert sampler.num_steps(2) == 5
    seen = [index for step in range(5) for index in sampler.global_batch(step)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    shares, batch = [sampler.micro_batches(rank) for rank in (0, 1)], sampler.global_batch(3)
    assert shares == [[[0], [2]], [[1], [3]]] and len(batch) == 4
    again = GlobalBatchSampler(10, 4, 1, 2, seed=3)
    assert again.global_batch(4) == sampler.global_batch(4)


def test_epochs_that_whole_batches_exceed_are_said():
    few = GlobalBatchSampler(48, 64, 1, 1, seed=0)
    assert few.num_steps(3) == 3
    assert few.surplus(3).startswith(
        "48 samples make 2.25 batches of 64, and a step takes a whole one: 3 steps, 4 epochs."
    )
    assert GlobalBatchSampler(5000, 128, 1, 1, seed=0).surplus(3) == "", "118 steps are 3.02 epochs"
    assert GlobalBatchSampler(64, 64, 1, 1, seed=0).surplus(3) == ""


def test_sampler_names_sizes_that_do_not_divide() -> None:
    with pytest.raises(UserError, match="model.global_batch_size=4 is not a multiple of model.micro_batch_size=3"):
        GlobalBatchSampler(10, 4, 3, 1, seed=0)


def test_sums_per_sequence() -> None:
    batch = build([pair([1, 2], [4, 5], [6]), pair([1, 3], [4], [6, 7])], 3)
    ones = torch.ones_like(batch.labels_BS, dtype=torch.float32)
    labelled = (batch.labels_BS >= 0) * ones
    assert batch.sum_per_sequence(labelled).tolist() == [2, 1, 1, 2]
