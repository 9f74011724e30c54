"""Score answers, or have models answer and score that: results.json, report.html and report.md.

python scripts/evaluate.py task=attributes judge=gemini prompts=heldout.jsonl "answers={base: base.jsonl, dpo: dpo.jsonl}" \\
    out=evaluation
python scripts/evaluate.py "tasks={mt_bench: {data: mt_bench}, pope: {data: pope}}" judge=openai_compatible \\
    judge.base_url=http://127.0.0.1:8000/v1 judge.model=qwen "checkpoints={base: llava, dpo: results/dpo}" out=evaluation
python scripts/evaluate.py "compare=[evaluation, evaluation_of_last_week]" out=comparison
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.asking import QuestionAsker
from nemo_mm_align.evaluation.generating import generate_for
from nemo_mm_align.evaluation.judges import NO_JUDGES, Judges
from nemo_mm_align.evaluation.results import Reproduction
from nemo_mm_align.evaluation.settings import EvaluateSettings, check_start, settings_of
from nemo_mm_align.evaluation.stage import dry_run, evaluate
from nemo_mm_align.evaluation.task_settings import task_sections
from nemo_mm_align.evaluation.tasks.optional import asks_judge, is_rated
from nemo_mm_align.evaluation.tasks.task import AsksJudge, Task, build_task
from nemo_mm_align.evaluation.wandb_tables import check_run, log_tables
from nemo_mm_align.labeling.judge import Judge, price_of
from nemo_mm_align.labeling.judges.rubric_judge import RubricJudge
from nemo_mm_align.labeling.rating import rated_by
from nemo_mm_align.labeling.registry import build_judge
from nemo_mm_align.workflow.overrides import overrides_of


@command("evaluate", types=("nemo_mm_align.evaluation.settings:EvaluateSettings",))
def main(config: DictConfig) -> None:
    """Run the stage; its settings are explained in conf/evaluate.yaml."""
    _check_either(config)
    values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    settings = settings_of(values)
    if settings.compare:
        from nemo_mm_align.evaluation.compare import compare_runs

        compare_runs(settings.compare, settings.out)
        return
    check_start(settings)
    if settings.log_to is not None:
        check_run(settings.log_to)
    chosen: dict[str, Any] = dict(settings.tasks) or {HydraConfig.get().runtime.choices["task"]: values["task"]}
    sections = task_sections(settings.tasks) if settings.tasks else chosen
    where = "tasks.{}" if settings.tasks else "task"
    tasks = {
        name: build_task(section, settings.attribute_schema, where.format(name)) for name, section in sections.items()
    }
    with _judges(values["judge"], tasks, settings) as judges:
        if settings.checkpoints:
            settings = _answered(settings, chosen)
        if settings.dry_run:
            dry_run(settings, tasks, judges)
            return
        results = evaluate(settings, tasks, judges, _reproductions(sections, tasks, judges))
    if settings.log_to is not None:
        log_tables(settings.log_to, results)


def _check_either(config: DictConfig) -> None:
    typed = HydraConfig.get().overrides.task
    if config.get("tasks") and (unread := [word for word in typed if word.startswith(("task=", "task."))]):
        raise UserError(f"{unread[0]}: tasks={{...}} takes the place of task and its settings; give one of them.")


@contextmanager
def _judges(config: Mapping[str, Any], tasks: Mapping[str, Task], settings: EvaluateSettings) -> Iterator[Judges]:
    """Make the judge for those tasks that ask one; worker processes, where there are any, end with it."""
    rated = [task for task in tasks.values() if is_rated(task)]
    asking = [name for name, task in tasks.items() if isinstance(task, AsksJudge)]
    if not any(map(asks_judge, tasks.values())):
        yield NO_JUDGES
        return
    schema, runner, budget = settings.attribute_schema, settings.runner, settings.budget
    with ExitStack() as opened:
        asker = None
        if asking:
            client = _client(build_judge(config, schema, not settings.dry_run), asking[0])
            asker = opened.enter_context(QuestionAsker(client, settings.questions_ledger, settings.asking))
        if not rated:
            yield Judges(None, asker, asker.client.price if asker else None)
            return
        ledger, estimate = settings.ratings_ledger, settings.estimate
        rate = opened.enter_context(rated_by(config, schema, ledger, runner, budget, estimate, not settings.dry_run))
        judge = rate.context.judge  # not made twice: one may hold a model
        yield Judges(rate, asker, price_of(judge), judge.settings)


def _client(judge: Judge, task: str) -> Any:
    if not isinstance(judge, RubricJudge):
        raise UserError(
            f"task {task} asks a language model in its own words, and judge={judge.name} is none: choose one of a service, for "
            "example judge=gemini or judge=openai_compatible."
        )
    return judge.client


def _answered(settings: EvaluateSettings, tasks: Mapping[str, Any]) -> EvaluateSettings:
    """Have the models answer, and take their answers in."""
    words = overrides_of(settings.generate, whole=("attributes",))
    folder = settings.out.with_name(f"{settings.out.name}.answers")
    found = generate_for(settings.checkpoints, tasks, folder, words, settings.processes)
    return settings.model_copy(update={"answers": {**settings.answers, **found}, "checkpoints": {}})


def _reproductions(
    sections: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, Task], judges: Judges
) -> dict[str, Reproduction]:
    typed = shlex.join(["python", "scripts/evaluate.py", *sys.argv[1:]])
    return {
        name: Reproduction(command=typed, task=dict(section), judge_settings=judges.settings_for(tasks[name]))
        for name, section in sections.items()
    }


if __name__ == "__main__":
    main()
