"""Answers that a model gives while it is trained: losses can look well while answers become short, endless or the same words.

Greedy, by the decoding of `inference`, at whatever layout is trained; nothing of it reaches the training.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.tasks.optional import asks_judge
from nemo_mm_align.evaluation.tasks.task import BringsPrompts, Task, answered_by, build_task, scored_by
from nemo_mm_align.inference.generator import Generator
from nemo_mm_align.inference.image_check import verify_images
from nemo_mm_align.inference.requests import check_lengths, make_requests
from nemo_mm_align.inference.rollout import Dialogue, RolledOut, roll_out
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.model.sequence_parallel import without_sequence_parallel
from nemo_mm_align.schema.image_paths import resolve_image
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Candidate, Prompt, read_records
from nemo_mm_align.training.settings import TrainSettings

logger = logging.getLogger(__name__)

NGRAM = 8
"""Words that a natural answer hardly says twice in the same order."""

Table = dict[str, float]


@dataclass(frozen=True)
class Look:
    """What was found in the answers of one moment: figures, and who answered what."""

    figures: Table
    answers: list[dict[str, str]]


@dataclass(frozen=True)
class Guards:
    """Prompts that are answered, and what is looked at.

    Args:
        dialogues: with distinct ids.
        images: of each prompt, where its images lie.
        encoder, processor: of the model.
        max_batch_tokens: see `Generator`.
        task: scores the answers too; None: nobody does.
    """

    dialogues: Sequence[Dialogue]
    images: dict[str, tuple[Path, ...]]
    encoder: Encoder
    processor: ImageProcessor
    max_batch_tokens: int
    task: Task | None = None

    @torch.no_grad()
    def look(self, model: Llava, progress: bool = False) -> Look | None:
        """Have the prompts answered; return what there is to say on rank 0, None elsewhere. All ranks call it."""
        with without_sequence_parallel(model):
            generator = Generator(model, self.encoder, self.processor, self.max_batch_tokens, graphs=False)
            rolled = roll_out(generator, self.dialogues, self._resolve, progress)
        return self._said(rolled) if rolled else None

    def _resolve(self, path: str) -> Path:
        return Path(path)

    def _said(self, rolled: Sequence[RolledOut]) -> Look:
        figures = figures_of([answer for one in rolled for answer in one.answers])
        if self.task is not None:
            figures[f"guards/{self.task.name}"] = self._score(self.task, rolled)
        said = [
            {"prompt_id": dialogue.prompt.id, "text": answer.text, "finish_reason": answer.finish_reason}
            for dialogue, one in zip(self.dialogues, rolled, strict=True)
            for answer in one.answers
        ]
        return Look(figures, said)

    def _score(self, task: Task, rolled: Sequence[RolledOut]) -> float:
        """Mean of the task's first measure over the answers that have a value; NaN where none has."""
        answered = [
            answered_by(dialogue.prompt, Candidate.dialogue(one.answers), self.images[dialogue.prompt.id])
            for dialogue, one in zip(self.dialogues, rolled, strict=True)
            if one.answers
        ]
        first = task.measures[0].name
        values = [scored.values[first] for scored in scored_by(task, answered) if first in scored.values]
        return statistics.fmean(values) if values else math.nan


def figures_of(answers: Sequence[Candidate]) -> Table:
    """Return mean words and the shares of answers that are empty, cut at the limit, or say `NGRAM` words twice."""
    words = [answer.text.split() for answer in answers]
    return {
        "guards/words": statistics.fmean(map(len, words)),
        "guards/empty": statistics.fmean(not text for text in words),
        "guards/cut": statistics.fmean(answer.finish_reason == "length" for answer in answers),
        "guards/repeating": statistics.fmean(map(repeats, words)),
    }


def repeats(words: Sequence[str]) -> bool:
    """Whether some `NGRAM` words stand there twice in the same order."""
    grams = [tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)]
    return len(set(grams)) < len(grams)


def open_guards(
    settings: TrainSettings, encoder: Encoder, processor: ImageProcessor, positions: int, asks: bool, folder: Path
) -> Guards | None:
    """Read the prompts and build the task, before any weight is read; None where no guards are wanted.

    Args:
        positions: of the model.
        asks: whether the model is asked for attributes; the schema's defaults are.
        folder: for images that lie inside a task's data.

    Raises:
        UserError: a task that needs a judge, or prompts that cannot be asked.
    """
    wanted = settings.guards
    if not wanted.wanted:
        return None
    task = None if wanted.task is None else _judgeless(build_task(wanted.task, settings.schema))
    prompts = _chosen(_prompts(wanted.prompts, task, folder), wanted.count)
    sampling = SamplingSettings(temperature=0, max_new_tokens=wanted.max_new_tokens)
    asked: dict[str, float] | None = {} if asks else None
    try:
        check_lengths(make_requests(prompts, encoder, (asked,)), wanted.max_new_tokens, positions)
        verify_images(Path(path) for prompt in prompts for path in prompt.images)
    except UserError as error:
        raise UserError(f"guards: {error}") from None
    dialogues = [Dialogue(prompt, prompt.follow_ups, sampling, asked) for prompt in prompts]
    images = {prompt.id: tuple(map(Path, prompt.images)) for prompt in prompts}
    return Guards(dialogues, images, encoder, processor, wanted.max_batch_tokens, task)


def _judgeless(task: Task) -> Task:
    if asks_judge(task):
        raise UserError(
            f"guards.task: {task.name} asks a judge, and there is none in a training. Take a task that scores by itself, or "
            "evaluate a checkpoint with scripts/evaluate.py."
        )
    return task


def _prompts(path: str | None, task: Task | None, folder: Path) -> list[Prompt]:
    """Read the file's prompts, or the task's own; their image paths hold from the current directory."""
    if path is not None:
        return [
            prompt.model_copy(
                update={"images": tuple(str(resolve_image(image, Path(path))) for image in prompt.images)}
            )
            for prompt in read_records(Path(path), Prompt)
        ]
    assert task is not None
    if not isinstance(task, BringsPrompts):
        raise UserError(
            f"guards.task: {task.name} brings no prompts of its own. Give a file of them, guards.prompts=FILE."
        )
    return task.prompts(folder)


def _chosen(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """So many of them, spread evenly; all where there are fewer."""
    if not prompts:
        raise UserError("guards: there is no prompt to answer. Give a file that has some, or guards.prompts=null.")
    number = min(count, len(prompts))
    return [prompts[place * len(prompts) // number] for place in range(number)]
