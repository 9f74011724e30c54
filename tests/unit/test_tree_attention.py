"""Attention of rows of trees without a mask: how rows are read, and the same numbers as with the mask."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model import packed_attention
from nemo_mm_align.model.attention import RowsOfTrees, segment_mask
from nemo_mm_align.model.config import EngineConfig, Levers
from nemo_mm_align.model.packed_attention import Packing, sequences
from nemo_mm_align.model.tree_attention import CALL_PAIRS, Call, calls_of, pays
from nemo_mm_align.model.trees import Tree, Trees
from tests.gpu import cpu_parity_worker as small

SCALE = 0.3


def ids_of(rows: list[list[Tree]], length: int) -> tuple[Tensor, Tensor]:
    """Segments and trees of rows, [B, S] each, as batches have them."""
    found = []
    for row in rows:
        segments, trees, branch = [-1] * length, [-1] * length, 0
        for number, tree in enumerate(row):
            trees[tree.start : tree.end] = [number] * (tree.end - tree.start)
            parts = [0] * tree.prefix
            for branch, size in enumerate(tree.branches, start=branch + 1):  # noqa: B020
                parts += [branch] * size
            segments[tree.start : tree.end] = parts
        found.append((segments, trees))
    segments_BS, trees_BS = (torch.tensor(values) for values in zip(*found, strict=True))
    return segments_BS, trees_BS


def drawn_rows(seed: int) -> tuple[list[list[Tree]], int]:
    """Rows of none to three trees, with and without a prefix, of one to four branches, with and without padding."""
    draw, rows = random.Random(seed), []
    for trees in (draw.randint(1, 3), draw.randint(1, 3), 0):
        row: list[Tree] = []
        for _ in range(trees):
            branches = tuple(draw.randint(1, 9) for _ in range(draw.randint(1, 4)))
            row.append(Tree(row[-1].end if row else 0, draw.choice((0, 1, draw.randint(2, 20))), branches))
        rows.append(row)
    return rows, max(row[-1].end for row in rows if row) + draw.choice((0, 1, 150))


def test_rows_are_read_off_segments_and_trees() -> None:
    segments = torch.tensor([[0, 0, 1, 1, 2, 0, 3, 4, 5, -1], [1, 1, -1, -1, -1, -1, -1, -1, -1, -1]])
    trees = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 2, -1], [0, 0, -1, -1, -1, -1, -1, -1, -1, -1]])
    first = (Tree(0, 2, (2, 1)), Tree(5, 1, (1, 1)), Tree(8, 0, (1,)))
    assert Trees.of(segments, trees) == Trees((first, (Tree(0, 0, (2,)),)), 10)
    assert first[0].spans() == [(0, 4), (4, 5)] and Tree(3, 2, ()).spans() == [(3, 5)]
    for seed in range(5):
        rows, length = drawn_rows(seed)
        assert Trees.of(*ids_of(rows, length)) == Trees(tuple(map(tuple, rows)), length)


@pytest.mark.parametrize(("segments", "message"), [([1, 0, 1], "in one piece"), ([1, 0, 2], "behind a branch")])
def test_rows_that_are_no_trees_are_refused(segments: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trees.of(torch.tensor([segments]), torch.tensor([[0, 0, 0]]))


@pytest.mark.parametrize("between", [-1, 1])
def test_a_tree_that_begins_twice_is_refused(between: int) -> None:
    """Its second branch would be one without a prefix."""
    with pytest.raises(ValueError, match="a tree does not lie in one piece"):
        Trees.of(torch.tensor([[0, 1, min(between, 0), 2]]), torch.tensor([[0, 0, between, 0]]))


def test_calls_and_sequences_of_a_tree() -> None:
    tree = Tree(2, 3, (2, 1, 4))
    first, second, third = slice(2, 7), slice(7, 8), slice(8, 12)
    causal = [Call(span, span, True) for span in (first, second, third)]
    assert list(calls_of(tree)) == [*causal, Call(slice(7, 12), slice(2, 5), False)]
    assert list(calls_of(Tree(0, 0, (2, 1)))) == [
        Call(slice(0, 2), slice(0, 2), True),
        Call(slice(2, 3), slice(2, 3), True),
    ]
    assert list(sequences((tree,), 13)) == [
        ((0, 2), [(0, 2)]),
        ((2, 7), [(2, 7)]),
        ((7, 8), [(2, 5), (7, 8)]),
        ((8, 12), [(2, 5), (8, 12)]),
        ((12, 13), [(12, 13)]),
    ]


def test_it_pays_where_fewer_pairs_outweigh_the_calls() -> None:
    assert Call(slice(0, 700), slice(0, 700), True).pairs == 512 * 512 + 188 * 700
    assert Call(slice(700, 900), slice(0, 600), False).pairs == 200 * 600
    assert not pays(Trees(((Tree(0, 60, (20, 20)),),), 100))
    assert pays(Trees(((Tree(0, 616, (200, 200)),),), 1016))
    calls = 16 * 16 + 100 * 100 + 100 * 16 + 3 * CALL_PAIRS
    row = (Tree(0, 16, (0, 100)),)
    limit = int((calls - CALL_PAIRS) ** 0.5)
    assert not pays(Trees((row,), limit)) and pays(Trees((row,), limit + 1))


def with_mask(query_SBND: Tensor, key_SBGD: Tensor, value_SBGD: Tensor, mask: Tensor) -> Tensor:
    query, key, value = (x.permute(1, 2, 0, 3) for x in (query_SBND, key_SBGD, value_SBGD))
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=SCALE, enable_gqa=True)
    return output.permute(2, 0, 1, 3).flatten(2)


def flash_in_plain_words(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float) -> Tensor:
    """What the GPU's kernel computes, sequence by sequence: there is none of its kind on a CPU."""
    outputs = []
    ends = zip(packing.query_ends.tolist(), packing.key_ends.tolist(), strict=True)
    start_q, start_k = next(ends)
    for end_q, end_k in ends:
        assert end_q - start_q <= packing.longest_query and end_k - start_k <= packing.longest_key
        q, k, v = (x.transpose(0, 1) for x in (query[start_q:end_q], key[start_k:end_k], value[start_k:end_k]))
        mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(k.shape[1] - q.shape[1])
        attended = F.scaled_dot_product_attention(q[None], k[None], v[None], mask, scale=scale, enable_gqa=True)
        outputs.append(attended[0].transpose(0, 1))
        start_q, start_k = end_q, end_k
    assert (start_q, start_k) == (len(query), len(key))
    return torch.cat(outputs)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("packed", [False, True])
def test_outputs_and_gradients_equal_those_with_a_mask(
    packed: bool, seed: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_attention, "_flash", flash_in_plain_words)
    rows, length = drawn_rows(seed)
    segments_BS, trees_BS = ids_of(rows, length)
    drawn = torch.Generator().manual_seed(seed)

    def values(heads: int) -> Tensor:  # as a fused projection leaves them: parts of a wider tensor
        wide = torch.randn(length, len(rows), heads, 16, dtype=torch.float64, generator=drawn)
        return wide[..., :8].requires_grad_()

    given = values(6), values(groups), values(groups)
    inside_SB1 = (segments_BS >= 0).t().unsqueeze(2)
    outside = torch.randn(length, len(rows), 48, dtype=torch.float64, generator=drawn) * inside_SB1
    expected = with_mask(*given, segment_mask(segments_BS, trees_BS)) * inside_SB1
    trees = Trees.of(segments_BS, trees_BS)
    layout = RowsOfTrees(trees=trees, packing=Packing.of(trees, torch.device("cpu")) if packed else None)
    found = layout.attend(*given, SCALE)
    assert found.isfinite().all() and found.is_contiguous(), "else its product with a frozen weight is S small ones"
    torch.testing.assert_close(found * inside_SB1, expected, rtol=0, atol=1e-13)
    gradients = [torch.autograd.grad(output, given, outside) for output in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


def test_half_precision_is_rounded_no_more_than_with_a_mask() -> None:
    trees = Trees(((Tree(0, 300, (150, 200, 50)),),), 700)
    segments_BS, trees_BS = ids_of([list(trees.rows[0])], 700)
    drawn = torch.Generator().manual_seed(0)
    exact = [torch.randn(700, 1, 2, 32, dtype=torch.float64, generator=drawn).bfloat16().double() for _ in range(3)]
    mask = segment_mask(segments_BS, trees_BS)
    expected = with_mask(*exact, mask)
    rounded = [x.bfloat16() for x in exact]
    errors = [
        (output.double() - expected).norm()
        for output in (RowsOfTrees(trees=trees).attend(*rounded, SCALE), with_mask(*rounded, mask))
    ]
    assert errors[0] <= 1.5 * errors[1]


def test_the_gpus_kernel_takes_half_precision_and_heads_of_eighths() -> None:
    assert packed_attention.fits(torch.bfloat16, 128) and packed_attention.fits(torch.float16, 256)
    assert not any(
        packed_attention.fits(*given) for given in ((torch.float32, 64), (torch.bfloat16, 44), (torch.bfloat16, 264))
    )


def test_a_gpu_in_fp32_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    packed_attention.check(small.CONFIG, EngineConfig("bf16", levers=Levers(attention=False)))
    packed_attention.check(small.CONFIG, EngineConfig("fp32"))
    with pytest.raises(UserError, match=r"model\.levers\.attention=true: .* here it is fp32 and 12"):
        packed_attention.check(small.CONFIG, EngineConfig("fp32", levers=Levers(attention=True)))


def test_the_gpus_kernel_is_called_as_it_is_declared() -> None:
    """On tensors without values: shapes, and that there is a gradient."""
    trees = Trees(((Tree(0, 5, (3, 2)),), (Tree(0, 0, (4,)),)), 12)
    on_meta = [
        torch.empty(12, 2, heads, 16, device="meta", dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2)
    ]
    packing = Packing.of(trees, torch.device("meta"))
    output = packed_attention.attend(*on_meta, packing, SCALE)
    assert output.shape == (12, 2, 4, 16) and len(packing.keys_K) == 2 * 12 + 5
    assert [x.shape for x in torch.autograd.grad(output.sum(), on_meta)] == [x.shape for x in on_meta]
