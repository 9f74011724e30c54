"""The stage `evaluate`: answer files in; results.json, report.html, report.md and the judged answers out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nemo_mm_align.core.atomic import write_bytes, write_text
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.lock import owned_output
from nemo_mm_align.core.outputs import folder_to_write
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.cost import Cost
from nemo_mm_align.evaluation.judges import NO_JUDGES, Judges
from nemo_mm_align.evaluation.metrics import SeedAnswers
from nemo_mm_align.evaluation.report import choose_samples
from nemo_mm_align.evaluation.results import Reproduction, Results
from nemo_mm_align.evaluation.settings import EvaluateSettings, check_start
from nemo_mm_align.evaluation.suite import TaskReport, write_suite
from nemo_mm_align.evaluation.summary import summarise, write_evaluation
from nemo_mm_align.evaluation.tables import ReportSample
from nemo_mm_align.evaluation.task_run import TaskRun, open_run
from nemo_mm_align.evaluation.tasks.task import FieldFiles, Task, scored_by
from nemo_mm_align.evaluation.written import rewriting
from nemo_mm_align.llm.price import Price
from nemo_mm_align.llm.running.dry_run import print_estimate
from nemo_mm_align.llm.running.spent import Spent
from nemo_mm_align.schema.image_paths import resolve_image
from nemo_mm_align.schema.records import write_records

log = logging.getLogger(__name__)


def evaluate(
    settings: EvaluateSettings,
    tasks: Mapping[str, Task],
    judges: Judges = NO_JUDGES,
    reproduction: Mapping[str, Reproduction] | None = None,
) -> dict[str, Results]:
    """Score all answers and write results.json, report.html, report.md and ``judged/<method>.jsonl``.

    Several tasks have one report; their judged answers are in ``judged/<task>``.

    Args:
        settings: what to evaluate.
        tasks: by name, what scores the answers.
        judges: who is asked by tasks that ask.
        reproduction: by task, what it takes to repeat this.

    Raises:
        UserError: a file is missing or broken, a prompt is unknown, unanswered, answered several times, or none of the
            task's, or `out` cannot be written or is being written by another process. Nothing is written then.
    """
    check_start(settings)
    runs = [open_run(settings, name, task) for name, task in tasks.items()]
    done = [_scored(run.judged(judges)) for run in runs]
    reports = {
        run.name: _report(settings, run, scored, judges.price, (reproduction or {}).get(run.name, Reproduction()))
        for run, scored in done
    }
    with owned_output(folder_to_write(settings.out)):
        with rewriting(settings.out, "results.json") as written:
            for run, scored in done:
                for path in _write_answers(settings, run, scored):
                    written.note(path)
        _write(settings, reports)
    _check_scored([run for run, _ in done], reports)
    return {name: report.results for name, report in reports.items()}


def _check_scored(runs: Sequence[TaskRun], reports: Mapping[str, TaskReport]) -> None:
    """Raise `UserError` where nothing that a judge was asked came to a figure: that is no result to go on with."""
    for run in runs:
        results = reports[run.name].results
        if run.spent is not None and not any(
            results.primary.name in one.measurements for one in results.methods.values()
        ):
            kinds = ", ".join(f"{count} {kind}" for kind, count in run.spent.failures.items()) or "nobody was asked"
            raise UserError(
                f"task {run.name}: the judge rated no answer ({kinds}); the report says so. Mend the cause and start the same "
                "command again: it asks for what is missing."
            )


def dry_run(settings: EvaluateSettings, tasks: Mapping[str, Task], judges: Judges) -> None:
    """Print per task what judging would cost; ask nothing that costs, write nothing. Raises as `evaluate` does."""
    check_start(settings)
    for name, task in tasks.items():
        run = open_run(settings, name, task)
        estimate = run.dry_run(judges)
        if estimate is None:
            log.info("task %s asks no judge", name)
        else:
            log.info("task %s:", name)
            total = estimate.work.known + estimate.work.set_aside + estimate.work.to_do
            print_estimate(estimate, total, judges.price, settings.budget, "questions")


def _scored(run: TaskRun) -> tuple[TaskRun, SeedAnswers]:
    scored = SeedAnswers(
        seed=0,
        methods={name: scored_by(run.task, answers) for name, answers in run.methods.items()},
        steering={name: scored_by(run.task, answers) for name, answers in run.steering.items() if answers},
        text_before=scored_by(run.task, run.text_before),
    )
    return run, scored


def _report(
    settings: EvaluateSettings, run: TaskRun, scored: SeedAnswers, price: Price | None, said: Reproduction
) -> TaskReport:
    spent = run.spent
    versions = list(spent.model_versions) if spent else []
    results = summarise(
        [replace(scored, seed=settings.seed)],
        settings.attribute_schema,
        run.task,
        bootstrap=True,
        cost=cost_of(spent, price) if spent else None,
        reproduction=said.model_copy(update={"judge": spent.judge if spent else "", "judge_versions": versions}),
    )
    return TaskReport(
        results=results,
        schema=settings.attribute_schema,
        samples=_samples(settings, run, scored.methods),
        cautions=run.task.cautions(results.methods),
        scored=scored.methods,
    )


def cost_of(spent: Spent, price: Price | None) -> Cost:
    """Return what the report says of what was spent."""
    return Cost(
        calls=spent.calls,
        failures_by_kind=spent.failures,
        input_tokens=spent.input_tokens,
        output_tokens=spent.output_tokens,
        money=spent.money(price),
        currency=price.currency if price else "",
        seconds=spent.seconds,
    )


def _write_answers(settings: EvaluateSettings, run: TaskRun, scored: SeedAnswers) -> Iterator[Path]:
    """Write what each answer is worth, and the files of the field; yield each when it is there."""
    several = len(settings.tasks) > 1
    folder = settings.out / "judged" / (run.name if several else "")
    judged = {folder / f"{name}.jsonl": answers for name, answers in scored.methods.items()}
    judged |= {folder / "steering" / f"{name}.jsonl": answers for name, answers in scored.steering.items()}
    for path, answers in judged.items():
        write_records(path, answers)
        yield path
    if isinstance(run.task, FieldFiles):
        for name, answers in scored.methods.items():
            yield from _write_field_files(settings.out / "field" / run.name, run.task.field_files(name, answers))


def _write_field_files(folder: Path, files: Mapping[str, str | bytes]) -> Iterator[Path]:
    for name, content in files.items():
        if isinstance(content, bytes):
            write_bytes(folder / name, content)
        else:
            write_text(folder / name, content)
        yield folder / name


def _write(settings: EvaluateSettings, reports: Mapping[str, TaskReport]) -> None:
    if len(settings.tasks) > 1:
        write_suite(settings.out, reports)
        log.info("wrote %s and report.html beside it", settings.out / "results.json")
        return
    (report,) = reports.values()
    paths = write_evaluation(
        settings.out, report.results, report.schema, report.samples, cautions=report.cautions, scored=report.scored
    )
    log.info("wrote %s and %s", *paths)


def _samples(
    settings: EvaluateSettings, run: TaskRun, methods: Mapping[str, Sequence[ScoredAnswer]]
) -> list[ReportSample]:
    by_prompt = {name: {answer.prompt_id: answer for answer in answers} for name, answers in methods.items()}
    prompts = list(run.prompts.values())
    chosen = choose_samples(prompts, next(iter(methods.values())), settings.samples, settings.seed)
    return [
        ReportSample(
            prompt=prompt,
            image_paths=tuple(
                resolve_image(path, settings.prompts or Path(), settings.image_root) for path in prompt.images
            ),
            answers={name: answers[prompt.id] for name, answers in by_prompt.items() if prompt.id in answers},
            reference=run.task.reference(prompt),
        )
        for prompt in chosen
    ]
