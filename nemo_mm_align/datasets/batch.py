"""One micro batch, the same tensors on every rank of a model replica.

Shapes: B rows, S positions per row, N distinct images, C channels, K image occurrences, Q sequences of the micro batch,
T targets of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nemo_mm_align.core.transfers import to_device
from nemo_mm_align.datasets.rows import PREFIX_SEGMENT
from nemo_mm_align.model.trees import Trees


@dataclass(frozen=True)
class Places:
    """Where labels and sequences stand in a batch, and how many there are.

    Counted where the batch is made: a number that a GPU knows is a number that the host must wait for. P positions have a
    label, A positions lie within a sequence.
    """

    label_P: Tensor
    """Positions with a label, in the flattened [S, B]: the order in which the output layer takes them."""
    answer_A: Tensor
    """Positions within a sequence, in the flattened [B, S], sequence by sequence."""
    lengths_Q: Tensor
    """How many of these belong to each sequence."""
    last_Q: Tensor
    """Last position of each sequence, in the flattened [S, B]."""
    prefix_A: Tensor
    """Positions within a shared prefix, in the flattened [B, S], tree by tree."""
    prefix_lengths_T: Tensor
    """How many of these each tree has."""
    tree_Q: Tensor
    """The tree that each sequence lies in, counted over the rows."""
    trees: Trees | None
    """How rows are divided, on the host; None where each is a plain causal sequence, without a prefix and with one branch."""

    @classmethod
    def of(cls, labels_BS: Tensor, segment_ids_BS: Tensor, tree_ids_BS: Tensor | None = None) -> Places:
        """Find them; on a GPU each of these counts is a wait."""
        if tree_ids_BS is None:
            tree_ids_BS = segment_ids_BS.clamp(max=PREFIX_SEGMENT)
        trees_B = tree_ids_BS.amax(dim=1) + 1
        tree_N = (tree_ids_BS + (trees_B.cumsum(0) - trees_B).unsqueeze(1)).flatten()
        branches_B = segment_ids_BS.amax(dim=1).clamp(min=0)
        first_B1 = (branches_B.cumsum(0) - branches_B).unsqueeze(1)
        sequence_N = (first_B1 + segment_ids_BS - 1).masked_fill(segment_ids_BS <= PREFIX_SEGMENT, -1).flatten()
        answer_A = (sequence_N >= 0).nonzero().squeeze(1)
        sequence_A, order_A = sequence_N[answer_A].sort(stable=True)
        answer_A, lengths_Q = answer_A[order_A], sequence_A.bincount(minlength=int(branches_B.sum()))
        rows, length = labels_BS.shape
        is_prefix_BS = segment_ids_BS == PREFIX_SEGMENT
        last_Q = answer_A[lengths_Q.cumsum(0) - 1] if len(answer_A) else answer_A
        prefix_A = is_prefix_BS.flatten().nonzero().squeeze(1)
        return cls(
            label_P=(labels_BS.t() >= 0).flatten().nonzero().squeeze(1),
            answer_A=answer_A,
            lengths_Q=lengths_Q,
            last_Q=last_Q % length * rows + last_Q // length,
            prefix_A=prefix_A,
            prefix_lengths_T=tree_N[prefix_A].bincount(minlength=int(trees_B.sum())),
            tree_Q=tree_N[last_Q],
            trees=Trees.of(segment_ids_BS, tree_ids_BS) if len(prefix_A) or int(branches_B.max()) > 1 else None,
        )

    @property
    def has_branches(self) -> bool:
        """Whether attention must keep branches apart: a row has a prefix, or more than one branch."""
        return self.trees is not None

    def to(self, device: torch.device | str | int) -> Places:
        """Return the same with its tensors on `device`."""
        moved: dict[str, Any] = {
            item.name: to_device(value, device)
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Batch:
    """Rows of equal length, padded on the right.

    `segment_ids_BS` says how a row is divided: -1 padding, 0 a prefix that all branches see, k >= 1 branch k. A plain row
    is branch 1 from start to end. Each branch is one *sequence*; sequences are numbered row by row, branch by branch, in the
    order of their samples.

    A prefix and its branches are a *tree*. Where `tree_ids_BS` says so, several lie in one row, one after the other, and see
    nothing of each other; branches are counted over the whole row.
    """

    input_ids_BS: Tensor
    labels_BS: Tensor
    """Next token at every position, -100 where no loss is wanted."""
    position_ids_BS: Tensor
    """Rotary positions; they restart at each branch of a shared prefix."""
    segment_ids_BS: Tensor
    images_NCHW: Tensor | None
    """Distinct images, normalised; ``None`` without images, or on stages that need none."""
    image_index_K: Tensor | None
    """For each image occurrence in row order, its place in `images_NCHW`."""
    sample_ids: tuple[str, ...]
    reference_log_probs_Q: Tensor | None = None
    roles: Mapping[str, Tensor] = field(default_factory=dict)
    """Role -> numbers of the sequences that have it, in order: the i-th chosen one belongs with the i-th rejected one."""
    sequence_counts: tuple[int, ...] = ()
    """How many sequences each sample has."""
    point: Tensor | None = None
    """What `Objective.point` said of the step's mismatched answers, a mean over all of them; None where nothing was asked."""
    targets_QT: Tensor | None = None
    """What is to be told of each sequence; NaN where a value is missing."""
    prior_log_probs_Q: Tensor | None = None
    """Reference log-probs of each answer where nothing is asked for; NaN of samples that leave it open, None where all do."""
    tree_ids_BS: Tensor | None = None
    """The tree that each position of a row belongs to, from 0, -1 padding; None: there is one in each row."""

    def to(self, device: torch.device | str | int) -> Batch:
        """Return the batch, and what is known of its places, with tensors on `device`."""
        places = self.places.to(device)
        batch = self._with_tensors(lambda tensor: to_device(tensor, device))
        batch.__dict__["places"] = places  # not counted again on the device
        return batch

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory; torch's loader calls this in a thread of its own."""
        return self._with_tensors(lambda tensor: tensor.pin_memory())

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {
            item.name: change(value) for item in fields(self) if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **changed, roles={role: change(places) for role, places in self.roles.items()})

    @cached_property
    def places(self) -> Places:
        """Where labels and sequences stand."""
        return Places.of(self.labels_BS, self.segment_ids_BS, self.tree_ids_BS)

    @property
    def num_sequences(self) -> int:
        """Sequences of the micro batch: branches over all rows."""
        return len(self.places.lengths_Q)

    @property
    def num_answer_tokens(self) -> int:
        """Positions with a loss."""
        return len(self.places.label_P)

    def sum_per_sequence(self, values_BS: Tensor) -> Tensor:
        """Add up per-token values, [B, S], within each sequence, in order: [Q]."""
        values_A = values_BS.flatten().index_select(0, self.places.answer_A)
        return torch.segment_reduce(values_A, "sum", lengths=self.places.lengths_Q, unsafe=True)

    def of_role(self, role: str, values_Q: Tensor) -> Tensor:
        """Return those of the values per sequence, [Q, ...], whose sequences have a role, in order."""
        if role not in self.roles:
            raise ValueError(f"no sequence of the micro batch is {role}; its roles are {', '.join(self.roles)}")
        return values_Q.index_select(0, self.roles[role])
