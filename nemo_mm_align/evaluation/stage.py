"""The stage `evaluate`: answer files in, results.json, report.html and the judged answers out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from nemo_mm_align.core.configuration import StrictModel, read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.lock import owned_output
from nemo_mm_align.core.outputs import check_folder, folder_to_write
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.metrics import SeedAnswers
from nemo_mm_align.evaluation.report import choose_samples
from nemo_mm_align.evaluation.results import Results
from nemo_mm_align.evaluation.summary import summarise, write_evaluation
from nemo_mm_align.evaluation.tables import ReportSample
from nemo_mm_align.evaluation.tasks.task import Answered, Task, scored_by
from nemo_mm_align.llm.running.budget import BudgetSettings
from nemo_mm_align.llm.running.runner import RunnerSettings
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import CandidateSet, Prompt, prompt_kind, read_records, resolve_image, write_records

log = logging.getLogger(__name__)


class EvaluateSettings(StrictModel):
    """Settings of the stage, as in ``conf/evaluate.yaml``.

    Args:
        prompts: JSONL file of the held-out prompts.
        answers: per method, a JSONL file with one answer to each of them.
        steering: JSONL files with answers that were asked for attribute values, one attribute moved at a time.
        text_before: JSONL file with answers to the text instructions before visual tuning.
        out: the folder to write.
        image_root: folder of the images; by default they lie relative to the prompts file.
        add_image_placeholders: as in `generate`.
        attribute_schema: what is judged.
        samples: how many sample prompts the report shows.
        seed: draws the samples, and names the run.
        runner, budget: how a judge is asked, for a task that wants its ratings.
    """

    prompts: Path
    answers: dict[str, Path] = Field(min_length=1)
    steering: list[Path] = []
    text_before: Path | None = None
    out: Path
    image_root: Path | None = None
    add_image_placeholders: bool = False
    attribute_schema: AttributeSchema
    samples: int = Field(default=8, ge=0)
    seed: int = 0
    runner: RunnerSettings = RunnerSettings()
    budget: BudgetSettings = BudgetSettings()


Rate = Callable[[Sequence[Answered]], Sequence[Answered]]
"""Returns answers with a judge's ratings, or why there are none."""


def settings_of(config: Mapping[str, Any]) -> EvaluateSettings:
    """Return the settings of a plain configuration (``conf/evaluate.yaml``, resolved)."""
    return read(EvaluateSettings, {key: value for key, value in config.items() if key not in ("task", "judge")})


def check_start(settings: EvaluateSettings) -> None:
    """Raise `UserError` for what can be known to go wrong before a judge's client is imported."""
    check_folder(settings.out)
    before = (settings.text_before,) if settings.text_before else ()
    for path in (settings.prompts, *settings.answers.values(), *settings.steering, *before):
        if not path.is_file():
            raise UserError(f"{path}: no such file. Give the path of a JSONL file.")


def evaluate(settings: EvaluateSettings, task: Task, rate: Rate | None = None) -> Results:
    """Score all answers and write results.json, report.html and ``judged/<method>.jsonl``.

    Args:
        settings: what to evaluate.
        task: scores the answers.
        rate: for a task that wants ratings.

    Raises:
        UserError: a file is missing or broken, a prompt is unknown, unanswered, answered several times, or none of the
            task's, or `out` cannot be written or is being written by another process. Nothing is written then.
    """
    check_start(settings)
    prompts = {
        prompt.id: prompt for prompt in read_records(settings.prompts, prompt_kind(settings.add_image_placeholders))
    }
    schema, files = settings.attribute_schema, AnswerFiles(settings, prompts)
    answered = {name: files.read(path) for name, path in settings.answers.items()}
    for name, path in settings.answers.items():
        _check_complete(path, answered[name], prompts)
    steering = [one for path in settings.steering for one in files.read(path)]
    before = files.read(settings.text_before) if settings.text_before else []
    if getattr(task, "rated", False):
        assert rate is not None, f"the task {task.name} wants ratings"
        answered, steering, before = _rated(rate, answered, steering, before)
    methods = {name: scored_by(task, answers) for name, answers in answered.items()}
    seed = SeedAnswers(
        seed=settings.seed,
        methods=methods,
        steering={"steered": scored_by(task, steering)} if steering else {},
        text_before=scored_by(task, before),
    )
    results = summarise([seed], schema, task)
    samples = _samples(settings, prompts, methods, task)
    with owned_output(folder_to_write(settings.out)):
        for name, answers in methods.items():
            write_records(settings.out / "judged" / f"{name}.jsonl", answers)
        paths = write_evaluation(settings.out, results, schema, samples, cautions=task.cautions(results.methods))
    log.info("wrote %s and %s", *paths)
    return results


@dataclass(frozen=True)
class AnswerFiles:
    """Reads files of answers to known prompts."""

    settings: EvaluateSettings
    prompts: Mapping[str, Prompt]

    def read(self, path: Path) -> list[Answered]:
        """Return the answers of a file; `asked` is what ``sampling.attributes`` says: all that the model was asked for.

        Raises:
            UserError: an answer to an unknown prompt, or several candidates of one prompt.
        """
        settings = self.settings
        return read_answers(path, self.prompts, settings.attribute_schema, settings.prompts, settings.image_root)


def read_answers(
    path: Path,
    prompts: Mapping[str, Prompt],
    schema: AttributeSchema,
    prompts_file: Path,
    image_root: Path | None = None,
) -> list[Answered]:
    """Return the answers of a file, see `AnswerFiles.read`."""
    answered: list[Answered] = []
    for line in read_records(path, CandidateSet):
        prompt = prompts.get(line.prompt_id)
        if prompt is None:
            raise UserError(f"{path}: answers prompt {line.prompt_id}, which is not in the prompts file; give its own.")
        if len(line.candidates) != 1:
            raise UserError(
                f"{path}: prompt {line.prompt_id} has {len(line.candidates)} candidates; evaluation reads one answer "
                "per prompt: generate with one candidate."
            )
        candidate, attributes = line.candidates[0], line.sampling.get("attributes")
        asked = schema.check_some(attributes) if attributes else None
        images = tuple(resolve_image(image, prompts_file, image_root) for image in prompt.images)
        answered.append(Answered(prompt, candidate.text, candidate.num_tokens, asked, images))
    return answered


def _rated(
    rate: Rate, answered: Mapping[str, list[Answered]], steering: list[Answered], before: list[Answered]
) -> tuple[dict[str, list[Answered]], list[Answered], list[Answered]]:
    """Have all answers rated in one go, so that one run asks, pauses and counts."""
    everything = [*(one for answers in answered.values() for one in answers), *steering, *before]
    rated = iter(rate(everything))
    again = {name: [next(rated) for _ in answers] for name, answers in answered.items()}
    return again, [next(rated) for _ in steering], [next(rated) for _ in before]


def _check_complete(path: Path, answers: Sequence[Answered], prompts: Mapping[str, Prompt]) -> None:
    missing = sorted(prompts.keys() - {answer.prompt.id for answer in answers})
    if missing:
        raise UserError(
            f"{path}: no answer to {len(missing)} of {len(prompts)} prompts, for example {missing[0]}. "
            "Generate the rest, or give a prompts file with the answered ones."
        )


def _samples(
    settings: EvaluateSettings,
    prompts: Mapping[str, Prompt],
    methods: Mapping[str, Sequence[ScoredAnswer]],
    task: Task,
) -> list[ReportSample]:
    by_prompt = {name: {answer.prompt_id: answer for answer in answers} for name, answers in methods.items()}
    chosen = choose_samples(list(prompts.values()), next(iter(methods.values())), settings.samples, settings.seed)
    return [
        ReportSample(
            prompt=prompt,
            image_paths=tuple(resolve_image(path, settings.prompts, settings.image_root) for path in prompt.images),
            answers={name: answers[prompt.id] for name, answers in by_prompt.items()},
            reference=task.reference(prompt),
        )
        for prompt in chosen
    ]
