"""Files of answers to a task's prompts: our own form, and what others exchange."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.evaluation.tasks.optional import takes_folders
from nemo_mm_align.evaluation.tasks.task import Answered, FieldFiles, Task, answered_by
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.image_paths import resolve_image
from nemo_mm_align.schema.records import CandidateSet, Prompt, read_records

_OWN_KEY = b'"candidates"'
"""By which a line of our own form is known, even a broken one."""


@dataclass(frozen=True)
class AnswerReader:
    """Reads files of answers to known prompts.

    Args:
        prompts: by id.
        schema: of the attributes that answers may have been asked for.
        prompts_file: beside which images lie; None where their paths are absolute.
        image_root: in whose place, if that is set.
        task: that may know a form of the field's own.
    """

    prompts: Mapping[str, Prompt]
    schema: AttributeSchema
    prompts_file: Path | None = None
    image_root: Path | None = None
    task: Task | None = None

    def read(self, path: Path) -> list[Answered]:
        """Return the answers of a file; `asked` is what ``sampling.attributes`` says: all that the model was asked for.

        Raises:
            UserError: an answer to an unknown prompt, or several candidates of one prompt.
        """
        if path.is_dir() and not takes_folders(self.task):
            raise UserError(f"{path}: a folder; give the file with the answers.")
        if isinstance(self.task, FieldFiles) and (found := self.task.read_answers(path)) is not None:
            return [self._of_the_field(path, *item) for item in found.items()]
        return self._all_own(path)

    def complete(self, path: Path) -> list[Answered]:
        """Return the answers of a file that must have one to each prompt, in the order of the prompts.

        Raises:
            UserError: a prompt is unanswered, or answered several times.
        """
        answered = self.read(path)
        by_id = {one.prompt.id: one for one in answered}
        if len(by_id) < len(answered):
            ids = [one.prompt.id for one in answered]
            twice = next(name for place, name in enumerate(ids) if name in ids[:place])
            raise UserError(f"{path}: prompt {twice} is answered twice; give one answer per prompt.")
        if missing := sorted(self.prompts.keys() - by_id.keys()):
            raise UserError(
                f"{path}: no answer to {len(missing)} of {len(self.prompts)} prompts, for example {missing[0]}. "
                "Generate the rest, or give a prompts file with the answered ones."
            )
        return answered

    def _all_own(self, path: Path) -> list[Answered]:
        """The answers of a file of our own form; one whose first line is of no form may be meant to be of the field's."""
        found: list[Answered] = []
        try:
            for one in self._own(path):
                found.append(one)  # what comes before a fault counts
        except RecordError as error:
            if found or not isinstance(self.task, FieldFiles) or _OWN_KEY in _line(path, error.line):
                raise
            raise self._of_no_form(error) from None
        return found

    def _of_no_form(self, error: RecordError) -> RecordError:
        try:
            json.loads(_line(error.path, error.line))
            problem = "neither of the forms that are taken"
        except ValueError as fault:
            problem = f"broken JSON ({fault})"
        form = getattr(self.task, "answer_form", "the field's own form")
        own = f"this project's answers ({', '.join(CandidateSet.model_fields)})"
        return RecordError(error.path, error.line, problem, f"each line must be a JSON object of {form} or {own}.")

    def _own(self, path: Path) -> Iterator[Answered]:
        for line in read_records(path, CandidateSet):
            prompt = self._prompt(path, line.prompt_id)
            if len(line.candidates) != 1:
                raise UserError(
                    f"{path}: prompt {line.prompt_id} has {len(line.candidates)} candidates; evaluation reads one answer "
                    "per prompt: generate with one candidate."
                )
            candidate, attributes = line.candidates[0], line.sampling.get("attributes")
            asked = self.schema.check_some(attributes) if attributes else None
            yield answered_by(prompt, candidate, self._images(prompt), asked)

    def _of_the_field(self, path: Path, prompt_id: str, texts: Sequence[str]) -> Answered:
        prompt = self._prompt(path, prompt_id)
        return Answered(prompt, texts[0], image_paths=self._images(prompt), follow_up_answers=tuple(texts[1:]))

    def _prompt(self, path: Path, prompt_id: str) -> Prompt:
        prompt = self.prompts.get(prompt_id)
        if prompt is None:
            where = f"in {self.prompts_file}" if self.prompts_file else "among the task's prompts"
            raise UserError(
                f"{path}: answers prompt {prompt_id}, which is not {where}. Give the answers to these prompts."
            )
        return prompt

    def _images(self, prompt: Prompt) -> tuple[Path, ...]:
        return tuple(resolve_image(image, self.prompts_file or Path(), self.image_root) for image in prompt.images)


def _line(path: Path, number: int) -> bytes:
    with path.open("rb") as file:
        return next(itertools.islice(file, number - 1, None))


def read_answers(
    path: Path,
    prompts: Mapping[str, Prompt],
    schema: AttributeSchema,
    prompts_file: Path,
    image_root: Path | None = None,
) -> list[Answered]:
    """Return the answers of a file of our own form, see `AnswerReader.read`."""
    return AnswerReader(prompts, schema, prompts_file, image_root).read(path)
