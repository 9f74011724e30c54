"""Answers to one prompt as one sample: image and question are computed once, the answers are branches of one row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from nemo_mm_align.datasets.rows import row_lengths, shared_prefix_length
from nemo_mm_align.datasets.sample import Sample, SampleStore


def group_answers(samples: Sequence[Sample], image_token_id: int, max_length: int) -> SampleStore:
    """Join samples of one prompt that stand beside each other and have their images and half of their prompts in common.

    Branches do not see each other, so that nothing but the order of training changes; their attribute lines may differ, for
    what follows the common prefix belongs to each branch. A group ends at another prompt, or where its row would have more
    than `max_length` positions. Samples with targets, views or prior sequences stay as they are.

    Args:
        samples: of one sequence each, in the order of the file. Which belong to one prompt tell their ids, ``PROMPT#...``, as
            `scripts/build.py` writes them, a prompt's rows beside each other.
        image_token_id: all of these must lie in the common prefix.
        max_length: of a row.
    """
    return SampleStore([_joined(group) for group in _groups(samples, image_token_id, max_length)])


def _groups(samples: Iterable[Sample], image_token_id: int, max_length: int) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    for sample in samples:
        if group and not _belongs(group, sample, image_token_id, max_length):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def _belongs(group: list[Sample], sample: Sample, image_token_id: int, max_length: int) -> bool:
    if not (_plain(group[0]) and _plain(sample)):
        return False
    prompt, one_of_several, _ = sample.id.partition("#")
    if not one_of_several or group[0].id.partition("#")[0] != prompt or group[0].image_paths != sample.image_paths:
        return False
    joined = _joined([*group, sample])
    common = shared_prefix_length(joined.sequences)
    shortest = min(joined.sequences, key=lambda sequence: sequence.prompt_length)
    images = shortest.ids.count(image_token_id)
    if common * 2 < shortest.prompt_length or shortest.ids[:common].count(image_token_id) < images:
        return False
    (length,) = row_lengths(joined, shared_prefix=True)
    return length <= max_length


def _joined(group: Sequence[Sample]) -> Sample:
    first, *others = group
    if not others:
        return first
    sequences = [sequence for sample in group for sequence in sample.sequences]
    roles = tuple(role for sample in group for role in sample.roles)
    return Sample(first.id, list(first.image_paths), sequences, roles=roles)


def _plain(sample: Sample) -> bool:
    """Whether sequences and roles are all that there is to a sample."""
    return sample.targets is None and not any(sample.views) and not sample.prior_sequences
