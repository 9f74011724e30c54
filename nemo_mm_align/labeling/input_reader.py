"""Reads prompts and candidates from end to end, once, and notes all that is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, TypeVar

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.core.file_kinds import check_is_json_lines
from nemo_mm_align.labeling.input_faults import InputFaults
from nemo_mm_align.labeling.input_table import InputTable, Place
from nemo_mm_align.llm.running.progress import track
from nemo_mm_align.schema.follow_ups import dialogue_fault
from nemo_mm_align.schema.records import CandidateSet, Prompt, Record, parse_line

CANDIDATES_HEAD = re.compile(rb'\{"prompt_id": ?"([^"\\\x00-\x1f\x80-\xff]+)"')
"""How a line of candidates begins as this package writes it: its id is read without parsing the line."""

RecordType = TypeVar("RecordType", bound=Record)


class InputReader:
    """One reading of both files. Order and number of lines may differ, ids must match.

    Args:
        prompts, candidates: the JSONL files.
        faults: takes what is wrong.
        key: returns the content key of a prompt with its candidates; may raise `UserError`.
        prompt_kind: as what a line of `prompts` is read.
    """

    def __init__(
        self,
        prompts: Path,
        candidates: Path,
        faults: InputFaults,
        key: Callable[[Prompt, CandidateSet], str],
        prompt_kind: type[Prompt] = Prompt,
    ) -> None:
        self.prompts, self.candidates, self.faults, self.key = prompts, candidates, faults, key
        self.prompt_kind = prompt_kind
        self._unreadable: set[Path] = set()
        self._candidates: dict[str, Place] = {}

    def read(self, choose: Callable[[Collection[str]], Collection[str]]) -> InputTable:
        """Return the rows of the prompts that `choose` picks among the ids of all.

        Raises:
            UserError: a file is missing, empty, or has no readable line at all. Other faults are only noted: a line that
                is no record, a prompt without candidates, candidates of an unknown prompt, an id that stands twice.
        """
        self._index_candidates()
        table, chosen, seen = InputTable(), choose(self._candidates), set[str]()
        lines = track(numbered_lines(self.prompts, Prompt), "checking the input", len(self._candidates))
        with self.candidates.open("rb") as file:
            for place, text in lines:
                prompt = self._parse(self.prompt_kind, text, self.prompts, place)
                if prompt is not None and self._is_known(prompt.id, place, seen) and prompt.id in chosen:
                    self._add_row(table, prompt, place, file)
        if not seen:
            self.faults.refuse(self.prompts, Prompt)
        if self.prompts not in self._unreadable:
            self._check_all_seen(seen)
        return table

    def _add_row(self, table: InputTable, prompt: Prompt, place: Place, file: IO[bytes]) -> None:
        candidates_place = self._candidates[prompt.id]
        try:
            candidates = read_candidates(file, self.candidates, candidates_place, prompt.id)
            if fault := dialogue_fault(prompt, candidates, "labelling"):
                raise UserError(fault)
            table.add(self.key(prompt, candidates), place, candidates_place)
        except UserError as error:
            self.faults.add_error(self.prompts, place.line, error)

    def _index_candidates(self) -> None:
        for place, text in numbered_lines(self.candidates, CandidateSet):
            prompt_id = self._prompt_id(text, place)
            if prompt_id in self._candidates:
                first = self._candidates[prompt_id].line
                problem = f"prompt {prompt_id!r} has candidates in line {first} already."
                self.faults.add(self.candidates, place.line, f"{problem} Put all of them into one line.")
            elif prompt_id is not None:
                self._candidates[prompt_id] = place
        if not self._candidates:
            self.faults.refuse(self.candidates, CandidateSet)

    def _prompt_id(self, text: bytes, place: Place) -> str | None:
        if head := CANDIDATES_HEAD.match(text):
            return head[1].decode()
        candidates = self._parse(CandidateSet, text, self.candidates, place)
        return candidates.prompt_id if candidates else None

    def _is_known(self, prompt_id: str, place: Place, seen: set[str]) -> bool:
        """Whether a prompt is new and has candidates; add it to those seen, and note what is wrong with it."""
        if prompt_id in seen:
            self.faults.add(self.prompts, place.line, f"prompt id {prompt_id!r} stands twice.")
            return False
        seen.add(prompt_id)
        known = prompt_id in self._candidates
        if not known and self.candidates not in self._unreadable:
            self.faults.add(self.prompts, place.line, f"prompt {prompt_id!r} has no candidates in {self.candidates}.")
        return known

    def _check_all_seen(self, seen: set[str]) -> None:
        for prompt_id, place in self._candidates.items():
            if prompt_id not in seen:
                problem = f"candidates of prompt {prompt_id!r}, which {self.prompts} lacks."
                self.faults.add(self.candidates, place.line, problem)

    def _parse(self, kind: type[RecordType], text: bytes, path: Path, place: Place) -> RecordType | None:
        """Return the record of a line; None where it is none, which is noted as a fault."""
        try:
            return parse_line(kind, text, path, place.line)
        except RecordError as error:
            self.faults.add_error(path, place.line, error)
        self._unreadable.add(path)
        return None


def read_candidates(file: IO[bytes], path: Path, place: Place, prompt_id: str) -> CandidateSet:
    """Return the candidates of a prompt that lie at a place of an open file."""
    file.seek(place.offset)
    candidates = parse_line(CandidateSet, file.readline(), path, place.line)
    if candidates.prompt_id != prompt_id:
        raise RecordError(path, place.line, "prompt_id stands twice in this line.", "keep one of them.")
    return candidates


def check_is_file(path: Path, kind: type[Record]) -> None:
    """Raise `UserError` where there is no such file, or one that is plainly no JSONL."""
    if not path.is_file():
        problem = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {problem}. Give the path of a JSONL file with {kind.__name__} records.")
    check_is_json_lines(path, kind.__name__)


def numbered_lines(path: Path, kind: type[Record]) -> Iterator[tuple[Place, bytes]]:
    """Yield place and text of the lines of a JSONL file that are not blank; raise `UserError` where it holds none."""
    check_is_file(path, kind)
    offset, count = 0, 0
    with path.open("rb") as file:
        for line, text in enumerate(file, start=1):
            if text.strip():
                count += 1
                yield Place(offset, line), text
            offset += len(text)
    if count == 0:
        raise UserError(f"{path}: the file is empty; it must hold one {kind.__name__} record per line.")
