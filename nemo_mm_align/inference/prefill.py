"""Prompts on their way into the cache: whole ones, and those whose beginning is kept there (`Prefixes`).

Shapes: P prompts, R rows, S positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from nemo_mm_align.core.transfers import to_device
from nemo_mm_align.inference.image_features import ImageFeatures
from nemo_mm_align.inference.prefixes import Content, Prefix, Prefixes, content_of, repeated
from nemo_mm_align.inference.rows import DecodingRequest, Row, TokenLogprobs
from nemo_mm_align.inference.stage import DecodingStage
from nemo_mm_align.inference.steps import Steps


@dataclass(frozen=True)
class ImageBatch:
    """Images of a batch of prompts, each once.

    Args:
        pixels_NCHW: normalised, float32.
        index_K: for each occurrence, prompt by prompt, its place in `pixels_NCHW`.
        names: what tells each of `pixels_NCHW` from others, as in `DecodingRequest.pictures`; none: they are
            encoded anew each time. Pictures of one name are one picture, whatever their pixels say.
    """

    pixels_NCHW: Tensor
    index_K: Tensor
    names: tuple[str, ...] = ()

    @classmethod
    def joined(cls, batches: Sequence[ImageBatch | None]) -> ImageBatch | None:
        """Return the images of several prompts, one after the other, those of one name once; None where there are none.

        Raises:
            ValueError: they differ in size.
        """
        places: dict[str | tuple[int, int], int] = {}
        pixels, index, names = list[Tensor](), list[int](), list[str]()
        for number, batch in enumerate(batches):
            for picture in [] if batch is None else batch.index_K.tolist():
                assert batch is not None
                key = batch.names[picture] if batch.names else (number, picture)
                if key not in places:
                    places[key] = len(pixels)
                    pixels.append(batch.pixels_NCHW[picture])
                    names.append(batch.names[picture] if batch.names else "")
                index.append(places[key])
        if not index:
            return None
        if len({picture.shape for picture in pixels}) > 1:
            raise ValueError("images of prompts that are asked together differ in size")
        return cls(torch.stack(pixels), torch.tensor(index), tuple(names) if all(names) else ())

    def of(self, occurrences: Sequence[int]) -> ImageBatch | None:
        """Return a batch of some occurrences alone, with the images that these need; None for none."""
        if not occurrences:
            return None
        needed, index_K = self.index_K[torch.tensor(occurrences)].unique(return_inverse=True)
        every = len(needed) == len(self.pixels_NCHW)  # mostly: no picture is copied then
        if every:
            return ImageBatch(self.pixels_NCHW, index_K, self.names)
        names = tuple(self.names[place] for place in needed.tolist()) if self.names else ()
        return ImageBatch(self.pixels_NCHW[needed], index_K, names)


@dataclass(frozen=True)
class Prompts:
    """Prompts that are computed together.

    Args:
        requests: at least one.
        rows: that answer them, and the place of the prompt that each of these answers.
        images: of all prompts, on the first stage.
        tokens_per_image, image_token_id: of the model.
    """

    requests: Sequence[DecodingRequest]
    rows: Sequence[tuple[Row, int]]
    images: ImageBatch | None
    tokens_per_image: int
    image_token_id: int

    @property
    def wanted(self) -> Prompts | None:
        """The same without rows that were given up, and without prompts that nobody waits for."""
        places = sorted({place for row, place in self.rows if row.finish_reason is None})
        return self.some(places) if places else None

    @property
    def first_rows(self) -> list[int]:
        """For each prompt, which of `rows` is the first that answers it."""
        places = [place for _, place in self.rows]
        return [places.index(place) for place in range(len(self.requests))]

    @property
    def unanswered(self) -> int:
        """How many of the prompts somebody waits for."""
        return len({place for row, place in self.rows if row.finish_reason is None})

    def some(self, places: Sequence[int]) -> Prompts:
        """Some of the prompts, with the rows that answer them and have not ended."""
        new = {place: number for number, place in enumerate(places)}
        rows = [(row, new[place]) for row, place in self.rows if place in new and row.finish_reason is None]
        counts = [self._pictures(request.prompt.ids) for request in self.requests]
        ends = list(accumulate(counts))
        occurrences = [number for place in places for number in range(ends[place] - counts[place], ends[place])]
        images = self.images.of(occurrences) if self.images else None
        requests = [self.requests[place] for place in places]
        return Prompts(requests, rows, images, self.tokens_per_image, self.image_token_id)

    def without_first(self, positions: Sequence[int]) -> ImageBatch | None:
        """Images of what is left of each prompt behind so many positions."""
        occurrences, start = list[int](), 0
        for request, first in zip(self.requests, positions, strict=True):
            whole, before = self._pictures(request.prompt.ids), self._pictures(request.prompt.ids[:first])
            occurrences += range(start + before, start + whole)
            start += whole
        return self.images.of(occurrences) if self.images else None

    def _pictures(self, ids: Sequence[int]) -> int:
        return ids.count(self.image_token_id) // self.tokens_per_image

    @cached_property
    def contents(self) -> list[Content]:
        """What each prompt's positions hold; asked both before and while they are computed."""
        return [content_of(request, self.image_token_id, self.tokens_per_image) for request in self.requests]


class Prefill:
    """Computes prompts into slots.

    Args:
        stage: this rank's, with a cache of more slots than there are for answers where prompts are to be kept.
        steps: of the same stage.
        image_bytes: see `ImageFeatures`.
    """

    def __init__(self, stage: DecodingStage, steps: Steps, image_bytes: int) -> None:
        self._stage, self._steps = stage, steps
        self.features = ImageFeatures(stage.model, image_bytes) if stage.model.pre_process else None
        self.prefixes = Prefixes(range(stage.slots, stage.cache.slots))

    def split(self, prompts: Prompts) -> tuple[Prompts, Prompts | None]:
        """Return those that are computed now, and those that had better wait for what these keep."""
        if not self.prefixes or len(prompts.requests) == 1:
            return prompts, None
        contents, positions = prompts.contents, [len(request.prompt.ids) for request in prompts.requests]
        known = [self.prefixes.known(*one) for one in zip(contents, positions, strict=True)]
        later = list(repeated(contents, positions, known))
        now = [place for place in range(len(prompts.requests)) if place not in later]
        return (prompts.some(now), prompts.some(later)) if later else (prompts, None)

    def compute(self, prompts: Prompts, slots: Sequence[int]) -> list[tuple[int, TokenLogprobs | None]]:
        """Compute all prompts, store each in the slots of its rows, and return the first token of each row.

        Args:
            slots: one for each row; a row that has none yet names that of another one of its prompt.
        """
        contents = prompts.contents if self.prefixes else []
        found = [
            self.prefixes.longest(content, len(request.prompt.ids))
            for content, request in zip(contents, prompts.requests, strict=False)
        ] or [None] * len(prompts.requests)
        tokens: dict[int, tuple[int, TokenLogprobs | None]] = {}
        for begun in (False, True):
            places = [place for place, prefix in enumerate(found) if (prefix is not None) == begun]
            if places:
                tokens |= self._some(prompts, places, found, slots)
        self._keep(prompts, contents, slots)
        for row, place in prompts.rows:
            row.cached = prefix.length if (prefix := found[place]) else 0
        return [tokens[row.number] for row, _ in prompts.rows]

    def _some(
        self, prompts: Prompts, places: Sequence[int], found: Sequence[Prefix | None], slots: Sequence[int]
    ) -> dict[int, tuple[int, TokenLogprobs | None]]:
        """First tokens, by row number, of prompts that are all begun or all new."""
        some = prompts.some(places)
        own = [slot for (_, place), slot in zip(prompts.rows, slots, strict=True) if place in places]
        prefixes = [prefix for place in places if (prefix := found[place]) is not None]
        logits_RV = self._go_on(some, own, prefixes) if prefixes else self._begin(some, own)
        rows = [row for row, _ in some.rows]
        tokens = self._steps.first(logits_RV, rows).tokens(rows)
        return dict(zip((row.number for row in rows), tokens, strict=True))

    def _begin(self, prompts: Prompts, slots: Sequence[int]) -> Tensor | None:
        """Compute whole prompts; return logits [R, V / TP]."""
        ids = [request.prompt.ids for request in prompts.requests]
        return self._stage.prefill(
            self._padded(ids),
            self._put([len(one) - 1 for one in ids]),
            self._put(slots),
            self._put([place for _, place in prompts.rows]),
            self._embeddings(prompts.images),
        )

    def _go_on(self, prompts: Prompts, slots: Sequence[int], prefixes: Sequence[Prefix]) -> Tensor | None:
        """Copy what is kept, compute the rest; return logits [R, V / TP]."""
        places = [place for _, place in prompts.rows]
        first = [slots[places.index(place)] for place in range(len(prompts.requests))]
        starts, ids = [prefix.length for prefix in prefixes], [request.prompt.ids for request in prompts.requests]
        end = max(map(len, ids))
        self.copy([prefix.slot for prefix in prefixes], first, max(starts))
        logits_PV = self._stage.go_on(
            self._padded([one[start:] for one, start in zip(ids, starts, strict=True)]),
            self._put(starts),
            self._put([len(one) - start for one, start in zip(ids, starts, strict=True)]),
            self._put(first),
            end,
            self._embeddings(prompts.without_first(starts)),
        )
        others = [(first[place], slot) for place, slot in zip(places, slots, strict=True) if slot != first[place]]
        self.copy([source for source, _ in others], [target for _, target in others], end)
        return None if logits_PV is None else logits_PV.index_select(0, self._put(places))

    def _keep(self, prompts: Prompts, contents: Sequence[Content], slots: Sequence[int]) -> None:
        places = [place for _, place in prompts.rows]
        for place, content in enumerate(contents):
            self.keep(content, slots[places.index(place)])

    def keep(self, content: Content, slot: int) -> None:
        """Keep what a slot holds, where it is worth it and there is memory for the copy; it holds `content`."""
        kept = self.prefixes.keep(content)
        if kept is not None:
            try:
                self.copy([slot], [kept], len(content))
            except Exception as error:
                self.prefixes.forget(kept)
                if not (isinstance(error, torch.OutOfMemoryError) and self._stage.is_whole):  # ranks keep the same
                    raise

    def copy(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first columns of some slots to others."""
        if sources:
            self._stage.cache.move(self._put(sources), self._put(targets), length)

    def _padded(self, ids: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, ids))
        return self._put([[*one, *[0] * (longest - len(one))] for one in ids])

    def _put(self, values: Sequence[int] | Sequence[list[int]]) -> Tensor:
        return to_device(torch.tensor(values), self._steps.device)

    def _embeddings(self, images: ImageBatch | None) -> Tensor | None:
        if images is None or self.features is None:
            return None
        return self.features.of(images.pixels_NCHW, images.index_K, images.names)
