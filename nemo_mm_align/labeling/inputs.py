"""Reads prompts and candidates together and checks all that can be known before the first call is paid."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, TypeVar

from nemo_mm_align.errors import RecordError, UserError
from nemo_mm_align.images import read_image_bytes
from nemo_mm_align.labeling.image_hashes import ImageHashes
from nemo_mm_align.labeling.jobs import Job, LabelContext, content_key, draw_prompts
from nemo_mm_align.labeling.running.progress import track
from nemo_mm_align.records import CandidateSet, Prompt, Record, parse_line, resolve_image

SHOWN_FAULTS = 10

CANDIDATES_HEAD = re.compile(rb'\{"prompt_id": ?"([^"\\\x00-\x1f\x80-\xff]+)"')
"""How a line of candidates begins as this package writes it: its id is read without parsing the line."""

RecordType = TypeVar("RecordType", bound=Record)


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


class LabelInputs:
    """The prompts to label with their candidates, streamed: memory holds offsets and keys, no texts.

    Args:
        prompts, candidates: the JSONL files. Order and number of lines may differ, ids must match.
        image_root: folder of the images; without one they lie relative to the prompts file.
        selection: which of the prompts are labelled.
        hashes: of images; a file of them spares a later run reading all images again.
    """

    def __init__(
        self,
        prompts: Path,
        candidates: Path,
        image_root: Path | None = None,
        selection: Selection = Selection(),
        hashes: ImageHashes | None = None,
    ) -> None:
        self.prompts, self.candidates, self.image_root = prompts, candidates, image_root
        self.selection = selection
        self.keys: list[str] = []
        self._places, self._numbers = array("q"), array("q")  # of the lines of the prompts that `keys` are of
        self._faults: list[str] = []
        self._unreadable: set[Path] = set()
        self._hashes = hashes or ImageHashes()
        self._verified: set[str] = set()
        self._candidate_lines = self._index_candidates()
        self._chosen = selection.choose(self._candidate_lines)

    def __len__(self) -> int:
        return len(self.keys)

    def check(self, context: LabelContext, is_labelled: Callable[[str], bool]) -> None:
        """Read everything once, fill `keys` (one per prompt to label, in file order), and report what is wrong.

        Images are decoded only for keys that are not `is_labelled`, so that going on after a stop starts quickly.

        Raises:
            UserError: naming file and line of the faults: a line that is no record, a prompt without candidates,
                candidates of an unknown prompt, an id that stands twice, an image that is missing or does not open.
        """
        fingerprint, seen, total = context.fingerprint, set[str](), len(self._candidate_lines)
        with self.candidates.open("rb") as candidates_file:
            for offset, line, text in track(numbered_lines(self.prompts, Prompt), "checking the input", total):
                prompt = self._parse(Prompt, text, self.prompts, line)
                if prompt is not None and self._is_chosen(prompt, line, seen):
                    try:
                        key = self._key(prompt, self._read_candidates(candidates_file, prompt.id), context, fingerprint)
                        self.keys.append(key)
                        self._places.append(offset)
                        self._numbers.append(line)
                        if not is_labelled(key):
                            self._verify_images(prompt)
                    except UserError as error:
                        self._note(self.prompts, line, error)
        if not seen:
            self._refuse(self.prompts, Prompt)
        if self.prompts not in self._unreadable:
            self._check_all_seen(seen)
        self._hashes.save()
        self._raise_faults()

    def jobs(self, wanted: Callable[[str], bool] | None = None) -> Iterator[Job]:
        """Yield the jobs in the order of the prompts file; `check` must have been called.

        Args:
            wanted: tells by its key whether a job is wanted; the lines of others are not read. By default all are.
        """
        with self.prompts.open("rb") as prompts_file, self.candidates.open("rb") as candidates_file:
            for key, offset, line in zip(self.keys, self._places, self._numbers, strict=True):
                if wanted is None or wanted(key):
                    prompts_file.seek(offset)
                    prompt = parse_line(Prompt, prompts_file.readline(), self.prompts, line)
                    candidates = self._read_candidates(candidates_file, prompt.id)
                    yield Job(prompt, candidates, self._image_paths(prompt), key)

    def job(self, key: str) -> Job | None:
        """Return the first job of a key, None where there is none; `check` must have been called."""
        return next(self.jobs(lambda each: each == key), None)

    def _index_candidates(self) -> dict[str, tuple[int, int]]:
        lines: dict[str, tuple[int, int]] = {}
        for offset, line, text in numbered_lines(self.candidates, CandidateSet):
            prompt_id = self._prompt_id(text, line)
            if prompt_id in lines:
                first = lines[prompt_id][1]
                problem = f"prompt {prompt_id!r} has candidates in line {first} already."
                self._fault(self.candidates, line, f"{problem} Put all of them into one line.")
            elif prompt_id is not None:
                lines[prompt_id] = (offset, line)
        if not lines:
            self._refuse(self.candidates, CandidateSet)
        return lines

    def _prompt_id(self, text: bytes, line: int) -> str | None:
        if head := CANDIDATES_HEAD.match(text):
            return head[1].decode()
        candidates = self._parse(CandidateSet, text, self.candidates, line)
        return candidates.prompt_id if candidates else None

    def _is_chosen(self, prompt: Prompt, line: int, seen: set[str]) -> bool:
        """Whether a prompt is to be labelled; add it to those seen, and note what is wrong with it."""
        known = prompt.id in self._candidate_lines
        if prompt.id in seen:
            self._fault(self.prompts, line, f"prompt id {prompt.id!r} stands twice.")
            return False
        seen.add(prompt.id)
        if not known and self.candidates not in self._unreadable:
            self._fault(self.prompts, line, f"prompt {prompt.id!r} has no candidates in {self.candidates}.")
        return known and prompt.id in self._chosen

    def _check_all_seen(self, seen: set[str]) -> None:
        for prompt_id, (_, line) in self._candidate_lines.items():
            if prompt_id not in seen:
                self._fault(self.candidates, line, f"candidates of prompt {prompt_id!r}, which {self.prompts} lacks.")

    def _key(self, prompt: Prompt, candidates: CandidateSet, context: LabelContext, fingerprint: str) -> str:
        hashes = [self._hashes.of(path) for path in self._image_paths(prompt)]
        return content_key(fingerprint, prompt, hashes, candidates, context.judge.reads_metadata, self.selection.repeat)

    def _read_candidates(self, file: IO[bytes], prompt_id: str) -> CandidateSet:
        offset, line = self._candidate_lines[prompt_id]
        file.seek(offset)
        candidates = parse_line(CandidateSet, file.readline(), self.candidates, line)
        if candidates.prompt_id != prompt_id:
            raise RecordError(self.candidates, line, "prompt_id stands twice in this line.", "keep one of them.")
        return candidates

    def _image_paths(self, prompt: Prompt) -> tuple[Path, ...]:
        return tuple(resolve_image(image, self.prompts, self.image_root) for image in prompt.images)

    def _verify_images(self, prompt: Prompt) -> None:
        for path in self._image_paths(prompt):
            name = os.fspath(path)
            if name not in self._verified:
                read_image_bytes(path)
                self._verified.add(name)

    def _parse(self, kind: type[RecordType], text: bytes, path: Path, line: int) -> RecordType | None:
        """Return the record of a line; None where it is none, which is noted as a fault."""
        try:
            return parse_line(kind, text, path, line)
        except RecordError as error:
            self._note(path, line, error)
        self._unreadable.add(path)
        return None

    def _note(self, path: Path, line: int, error: UserError) -> None:
        """Note an error as a fault of a line; a `RecordError` names its own."""
        if isinstance(error, RecordError):
            self._faults.append(str(error))
        else:
            self._fault(path, line, str(error))

    def _fault(self, path: Path, line: int, problem: str) -> None:
        self._faults.append(str(RecordError(path, line, problem)))

    def _refuse(self, path: Path, kind: type[Record]) -> NoReturn:
        """Raise for a file without a single readable line: it is probably another file."""
        raise UserError(
            f"{path}: no line is a {kind.__name__} record; is it the right file? The first: {self._faults[0]}"
        )

    def _raise_faults(self) -> None:
        if not self._faults:
            return
        shown = "\n  ".join(self._faults[:SHOWN_FAULTS])
        more = len(self._faults) - SHOWN_FAULTS
        rest = f"\n  and {more} more" if more > 0 else ""
        raise UserError(
            f"{len(self._faults)} faults in the input; nothing was asked of the judge:\n  {shown}{rest}\n"
            "Correct or remove these lines, then start again."
        )


def numbered_lines(path: Path, kind: type[Record]) -> Iterator[tuple[int, int, bytes]]:
    """Yield (byte offset, line number, text) of the lines of a JSONL file that are not blank.

    Raises:
        UserError: the file is missing or holds no line.
    """
    if not path.is_file():
        problem = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {problem}. Give the path of a JSONL file with {kind.__name__} records.")
    offset, count = 0, 0
    with path.open("rb") as file:
        for line, text in enumerate(file, start=1):
            if text.strip():
                count += 1
                yield offset, line, text
            offset += len(text)
    if count == 0:
        raise UserError(f"{path}: the file is empty; it must hold one {kind.__name__} record per line.")
