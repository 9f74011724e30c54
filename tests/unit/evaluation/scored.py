"""From answers to a task's figures, for tests of tasks that are not run by the stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from nemo_mm_align.core.repository import CONF
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.tasks.optional import statistics_of
from nemo_mm_align.evaluation.tasks.task import Answered, Task, build_task, scored_by
from nemo_mm_align.schema.records import Prompt
from tests.unit.evaluation.judged import helpsteer


def task_of(name: str, **settings: Any) -> Task:
    """The task as its own YAML file describes it."""
    config = OmegaConf.merge(OmegaConf.load(CONF / f"task/{name}.yaml"), settings)
    values = OmegaConf.to_container(config)
    assert isinstance(values, dict)
    return build_task({str(key): value for key, value in values.items()}, helpsteer())


def prompts_of(task: Task, images: Path) -> dict[str, Prompt]:
    prompts = task.prompts(images)  # type: ignore[attr-defined]
    assert len({one.id for one in prompts}) == len(prompts)
    return {one.id: one for one in prompts}


def score(
    task: Task, prompts: Mapping[str, Prompt], answers: Mapping[str, tuple[str, ...] | str]
) -> list[ScoredAnswer]:
    texts = {key: text if isinstance(text, str) else text[0] for key, text in answers.items()}
    return scored_by(task, [Answered(prompts[key], text) for key, text in texts.items()])


def figures(task: Task, scored: list[ScoredAnswer]) -> dict[str, float]:
    """Means of values, and statistics without resampling."""
    names = sorted({name for one in scored for name in one.values})
    found = {name: float(np.mean([one.values[name] for one in scored if name in one.values])) for name in names}
    for statistic in statistics_of(task):
        entering = [one for one in scored if set(statistic.columns) <= set(one.columns)]
        if entering:
            columns = {name: np.array([one.columns[name] for one in entering]) for name in statistic.columns}
            found[statistic.measure] = float(statistic.compute(np.ones((1, len(entering))), columns)[0])
    return found
