"""How much the stages have to do: prompts counted in their files, else as expected; tasks by their data, else as published."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.evaluation.tasks.sizes import SIZES, TaskSize
from nemo_mm_align.evaluation.tasks.task import Answered, AsksJudge, BringsPrompts, Task, build_task
from nemo_mm_align.launch.compose import Composed
from nemo_mm_align.launch.settings import CostSettings
from nemo_mm_align.llm.running.estimates import BYTES_PER_TOKEN, guess_input_tokens
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER, Prompt, Turn, prompt_kind, read_records

SHOWN = 200
"""Prompts of a file that a judge's questions are written out for; the others are taken to be like them."""


@dataclass(frozen=True)
class Asked:
    """Prompts of a stage.

    Args:
        count: how many.
        tokens: of a prompt's text on average, its template included.
        images: per prompt on average.
        source: how they are known, in words.
        shown: some of them.
    """

    count: int
    tokens: float
    images: float
    source: str
    shown: tuple[Prompt, ...]


def text_of(tokens: float) -> str:
    """Return a text of about so many tokens, as the guesses of a judge's tokens count them."""
    return "word " * max(1, round(tokens * BYTES_PER_TOKEN / 5))


def asked_prompts(
    composed: Composed, expected: int | None, key: str, costs: CostSettings, instead: Path | None = None
) -> Asked:
    """Return the prompts of a stage's configuration.

    Args:
        expected: their number where the file is not here.
        key: the setting that `expected` came from.
        instead: the file to count in, if not the stage's own.

    Raises:
        UserError: the file is broken, or neither is there.
    """
    path = instead or Path(str(composed.get("prompts")))
    if path.is_file():
        return _counted(path, bool(composed.get("add_image_placeholders")), costs)
    if expected is None:
        raise UserError(f"{path} is not here. Give costs.{key}=NUMBER")
    images = round(costs.images_per_prompt)
    content = f"{IMAGE_PLACEHOLDER}\n" * images + text_of(costs.prompt_tokens)
    pictures = tuple(f"{number}.png" for number in range(images))
    prompt = Prompt(id="expected", images=pictures, turns=(Turn(role="user", content=content),))
    source = f"expected: costs.{key}"
    return Asked(expected, costs.prompt_tokens, costs.images_per_prompt, source, (prompt,))


def _counted(path: Path, add_placeholders: bool, costs: CostSettings) -> Asked:
    prompts = read_records(path, prompt_kind(add_placeholders))
    shown = list(itertools.islice(prompts, SHOWN))
    if not shown:
        raise UserError(f"{path}: holds no prompts. Give a file with some.")
    count, images = len(shown), sum(len(one.images) for one in shown)
    length = sum(map(_bytes, shown))
    for prompt in prompts:
        count, images, length = count + 1, images + len(prompt.images), length + _bytes(prompt)
    tokens = length / count / BYTES_PER_TOKEN + costs.prompt_tokens / 2  # the template's own words
    return Asked(count, tokens, images / count, f"counted in {path}", tuple(shown))


def _bytes(prompt: Prompt) -> int:
    return sum(len(turn.content.encode()) for turn in prompt.turns)


def task_settings(composed: Composed) -> dict[str, dict[str, Any]]:
    """Return a stage's ``tasks`` by name, with the settings of conf/task and those given beside them (``task``: of which)."""
    given = composed.plain("tasks") or {}
    named = given if isinstance(given, Mapping) else dict.fromkeys(given)
    own = {str(name): dict(said or {}) for name, said in named.items()}
    return {name: _of_group(str(said.get("task", name))) | said for name, said in own.items()}


def _of_group(name: str) -> dict[str, Any]:
    path = CONF / f"task/{name}.yaml"
    values: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    return dict(values)


def task_size(name: str, settings: Mapping[str, Any], schema: AttributeSchema, costs: CostSettings) -> TaskSize:
    """Return how much a task asks: counted in its data, else as published; raise `UserError` where neither is known."""
    published = SIZES.get(str(settings.get("task", name)))
    here = [value for value in settings.values() if isinstance(value, str) and Path(value).exists()]
    if here:
        own = {key: value for key, value in settings.items() if key != "task"}
        try:
            return _of_data(build_task(own, schema), here[0], published, costs)
        except UserError:
            if published is None:
                raise
    if published is None:
        raise UserError(f"task {name}: its data are not here, and no published size of it is known")
    return published


def _of_data(task: Task, data: str, published: TaskSize | None, costs: CostSettings) -> TaskSize:
    if not isinstance(task, BringsPrompts):
        raise UserError(f"task {task.name} brings no prompts of its own")
    answer = published.answer_tokens if published else costs.answer_tokens
    with tempfile.TemporaryDirectory() as images:
        prompts = task.prompts(Path(images))
        questions = list(_questions(task, prompts[:SHOWN], answer)) if isinstance(task, AsksJudge) else []
    turns = max((1 + len(prompt.follow_ups) for prompt in prompts), default=1)
    calls = len(questions) / max(1, min(len(prompts), SHOWN))
    limits = [prompt.decoding.max_new_tokens for prompt in prompts if prompt.decoding]
    return TaskSize(
        prompts=len(prompts),
        source=f"counted in {data}",
        images=sum(len(prompt.images) for prompt in prompts) / max(1, len(prompts)),
        turns=turns,
        prompt_tokens=round(sum(map(_bytes, prompts)) / max(1, len(prompts)) / BYTES_PER_TOKEN),
        answer_tokens=answer,
        most_tokens=max((limit for limit in limits if limit), default=TaskSize.most_tokens),
        judge_input=round(sum(questions) / len(questions)) if questions else 0,
        judge_output=(published.judge_output if published else 0) or round(costs.answer_tokens * bool(questions)),
        calls_per_prompt=calls if questions else None,
    )


def _questions(task: AsksJudge, prompts: Sequence[Prompt], answer: int) -> Iterator[int]:
    """Yield the guessed tokens of what a judge is asked about an answer of usual length to each prompt."""
    text = text_of(answer)
    for prompt in prompts:
        paths = tuple(map(Path, prompt.images))
        answered = Answered(prompt, text, image_paths=paths, follow_up_answers=(text,) * len(prompt.follow_ups))
        yield from (guess_input_tokens(asked.question) for asked in task.questions(answered))
