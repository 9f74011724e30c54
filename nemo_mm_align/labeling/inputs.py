"""The prompts to label with their candidates: checked before the first call is paid, then streamed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.file_state import file_state
from nemo_mm_align.labeling.input_faults import InputFaults
from nemo_mm_align.labeling.input_memory import InputMemory
from nemo_mm_align.labeling.input_reader import InputReader, check_is_file, read_candidates
from nemo_mm_align.labeling.input_table import InputTable
from nemo_mm_align.labeling.items import Item, LabelContext, content_key, draw_prompts
from nemo_mm_align.schema.answer_provenance import CandidateOrigins, provenance_path
from nemo_mm_align.schema.image_paths import resolve_image
from nemo_mm_align.schema.images import read_image_bytes
from nemo_mm_align.schema.records import CandidateSet, Prompt, parse_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """Which prompts are labelled.

    Args:
        repeat: 0, or the number of the time that they are judged again, candidates in another order.
        sample: how many of them, drawn at random; all where None.
        seed: of the drawing.
    """

    repeat: int = 0
    sample: int | None = None
    seed: int = 0

    def choose(self, ids: Collection[str]) -> Collection[str]:
        """Return the ids of the prompts to label."""
        return ids if self.sample is None else draw_prompts(ids, self.sample, self.seed)

    def contains(self, other: Selection) -> bool:
        """Whether the prompts of another selection are among these, whatever the input: larger draws hold smaller ones."""
        if self.sample is None or other.sample is None:
            return self.sample is None
        return self.seed == other.seed and self.sample >= other.sample

    def describe(self) -> str:
        """Return the selection as a user writes it."""
        return "all prompts" if self.sample is None else f"sample={self.sample} seed={self.seed}"


class LabelInputs:
    """The prompts to label with their candidates. Memory holds places and keys, no texts.

    Args:
        prompts, candidates: the JSONL files. Order and number of lines may differ, ids must match.
        image_root: folder of the images; without one they lie relative to the prompts file.
        selection: which of the prompts are labelled.
        memory: of earlier checks; by default there is none.
        prompt_kind: `PlacedPrompt` puts ``<image>`` in front where a prompt has images and no place for them.

    Raises:
        UserError: one of the two is no file.
    """

    def __init__(
        self,
        prompts: Path,
        candidates: Path,
        image_root: Path | None = None,
        selection: Selection = Selection(),
        memory: InputMemory | None = None,
        prompt_kind: type[Prompt] = Prompt,
    ) -> None:
        check_is_file(prompts, Prompt)
        check_is_file(candidates, CandidateSet)
        self.prompts, self.candidates, self.image_root = prompts, candidates, image_root
        self.selection, self._memory = selection, memory or InputMemory()
        self.prompt_kind = prompt_kind
        self._table = InputTable()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def keys(self) -> list[str]:
        """The content keys of the prompts to label, in file order; empty before `check`."""
        return self._table.keys

    def check(self, context: LabelContext, is_labelled: Callable[[str], bool]) -> None:
        """Read everything once, fill `keys`, and report what is wrong.

        Images are decoded only for keys that are not `is_labelled`, and nothing is read that an earlier run has checked
        in its present state, so that going on after a stop starts quickly.

        Raises:
            UserError: naming file and line of the faults: what `InputReader.read` finds, or an image that is missing or
                does not open.
        """
        faults = InputFaults()
        remembered = self._memory.recall((self.prompts, self.candidates), self._conditions(context))
        self._table = remembered or self._read(context, faults)
        self._verify_images(is_labelled, faults)
        self._memory.save_hashes()
        faults.raise_if_any()
        if remembered is None:
            self._memory.keep(self._table)

    def items(self, wanted: Callable[[str], bool] | None = None) -> Iterator[Item]:
        """Yield the items in the order of the prompts file; `check` must have been called.

        Args:
            wanted: tells by its key whether an item is wanted; the lines of others are not read. By default all are.
        """
        with self.prompts.open("rb") as prompts_file, self.candidates.open("rb") as candidates_file:
            for index, key in enumerate(self.keys):
                if wanted is None or wanted(key):
                    place, candidates_place = self._table.places(index)
                    prompts_file.seek(place.offset)
                    prompt = parse_line(self.prompt_kind, prompts_file.readline(), self.prompts, place.line)
                    candidates = read_candidates(candidates_file, self.candidates, candidates_place, prompt.id)
                    paths = self._image_paths(prompt)
                    hashes = tuple(self._memory.hashes.checked(path) or "" for path in paths)
                    yield Item(prompt, candidates, paths, key, hashes)

    def item(self, key: str) -> Item | None:
        """Return the first item of a key, None where there is none; `check` must have been called."""
        return next(self.items(lambda each: each == key), None)

    def _read(self, context: LabelContext, faults: InputFaults) -> InputTable:
        fingerprint, repeat, origins = context.fingerprint, self.selection.repeat, CandidateOrigins(self.candidates)

        def key(prompt: Prompt, candidates: CandidateSet) -> str:
            hashes = [self._memory.hashes.of(path) for path in self._image_paths(prompt)]
            origins.check(candidates, hashes)
            return content_key(fingerprint, prompt, hashes, candidates, context.judge.reads_metadata, repeat)

        table = InputReader(self.prompts, self.candidates, faults, key, self.prompt_kind).read(self.selection.choose)
        if origins.edited:
            log.warning("%s: %d lines were changed after sample.py had written them", self.candidates, origins.edited)
        return table

    def _verify_images(self, is_labelled: Callable[[str], bool], faults: InputFaults) -> None:
        """Decode the images of all prompts that are to be asked about, each once."""
        verified: set[str] = set()
        with self.prompts.open("rb") as file:
            for index, key in enumerate(self.keys):
                if is_labelled(key):
                    continue
                place, _ = self._table.places(index)
                file.seek(place.offset)
                prompt = parse_line(self.prompt_kind, file.readline(), self.prompts, place.line)
                for path in self._image_paths(prompt):
                    name = os.fspath(path)
                    if name not in verified:
                        verified.add(name)
                        try:
                            read_image_bytes(path)
                        except UserError as error:
                            faults.add_error(self.prompts, place.line, error)

    def _image_paths(self, prompt: Prompt) -> tuple[Path, ...]:
        return tuple(resolve_image(image, self.prompts, self.image_root) for image in prompt.images)

    def _conditions(self, context: LabelContext) -> dict[str, Any]:
        """Return what the table depends on, apart from the files."""
        return {
            "context": [context.fingerprint, context.judge.reads_metadata],
            "selection": asdict(self.selection),
            "image_root": str(self.image_root.absolute()) if self.image_root else None,
            "provenance": file_state(provenance_path(self.candidates)),
            "prompt_kind": self.prompt_kind.__name__,
        }
