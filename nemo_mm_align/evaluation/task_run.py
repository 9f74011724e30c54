"""One task of an evaluation: its prompts, and all answers to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answer_files import AnswerReader
from nemo_mm_align.evaluation.judges import Judges
from nemo_mm_align.evaluation.settings import EvaluateSettings
from nemo_mm_align.evaluation.tasks.optional import is_swept, takes_folders
from nemo_mm_align.evaluation.tasks.task import Answered, BringsPrompts, Task
from nemo_mm_align.llm.running.dry_run import Estimate
from nemo_mm_align.llm.running.spent import Spent
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt, prompt_kind, read_records


@dataclass(frozen=True)
class TaskRun:
    """A task with the answers that it is to score.

    Args:
        name: what the evaluation calls it.
        task: which scores them.
        prompts: by id.
        methods: answers to all prompts, by method.
        steering: answers that were asked for attribute values, by model.
        text_before: answers to text instructions before visual tuning.
        spent: what a judge was asked about them, if one was.
    """

    name: str
    task: Task
    prompts: Mapping[str, Prompt]
    methods: Mapping[str, Sequence[Answered]]
    steering: Mapping[str, Sequence[Answered]] = field(default_factory=dict)
    text_before: Sequence[Answered] = ()
    spent: Spent | None = None

    def judged(self, judges: Judges) -> TaskRun:
        """Return the same with what a judge says: all answers in one go, so that one run asks, pauses and counts."""
        found, spent = judges.judged(self.name, self.task, self._all)
        rest = iter(found)
        return replace(
            self,
            methods={name: [next(rest) for _ in answers] for name, answers in self.methods.items()},
            steering={name: [next(rest) for _ in answers] for name, answers in self.steering.items()},
            text_before=[next(rest) for _ in self.text_before],
            spent=spent,
        )

    def dry_run(self, judges: Judges) -> Estimate | None:
        """Return what a judge would be asked about them and what that would cost."""
        return judges.dry_run(self.name, self.task, self._all)

    @property
    def _all(self) -> list[Answered]:
        groups = [*self.methods.values(), *self.steering.values(), self.text_before]
        return [one for answers in groups for one in answers]


def open_run(settings: EvaluateSettings, name: str, task: Task) -> TaskRun:
    """Read a task's prompts and all answers to them.

    Raises:
        UserError: a file is missing or broken, or does not answer each prompt once.
    """
    prompts = {prompt.id: prompt for prompt in _prompts(settings, name, task)}
    reader = AnswerReader(prompts, settings.attribute_schema, settings.prompts, settings.image_root, task)
    files = {method: _answers_of(settings, path, name, task) for method, path in settings.answers.items()}
    sweeps: dict[str, list[Path]] = dict(settings.steering)
    if is_swept(task):
        sweeps |= {method: [path] for method, path in files.items() if path is not None}
        files = {}
    steering = {model: [one for path in paths for one in reader.read(path)] for model, paths in sweeps.items()}
    methods = {method: reader.complete(path) for method, path in files.items() if path is not None}
    return TaskRun(
        name=name,
        task=task,
        prompts=prompts,
        methods=methods or _at_defaults(steering, settings.attribute_schema),
        steering=steering,
        text_before=reader.read(settings.text_before) if settings.text_before else (),
    )


def _prompts(settings: EvaluateSettings, name: str, task: Task) -> list[Prompt]:
    if settings.prompts is not None:
        return list(read_records(settings.prompts, prompt_kind(settings.add_image_placeholders)))
    if not isinstance(task, BringsPrompts):
        raise UserError(f"task {name} brings no prompts of its own: give prompts=FILE.")
    found = task.prompts(settings.out.with_name(f"{settings.out.name}.images"))
    if not found:
        raise UserError(f"task {name}: its data hold no prompt.")
    return found


def _answers_of(settings: EvaluateSettings, path: Path, name: str, task: Task) -> Path | None:
    """The answers to a task: the file that was given, or the task's own in a folder; None where a model had no part in it."""
    if not path.is_dir():
        if len(settings.tasks) > 1:
            raise UserError(f"{path}: several tasks are evaluated; give the folder that holds <task>.jsonl for each.")
        return path
    file = path / f"{name}.jsonl"
    if file.is_file():
        return file
    if takes_folders(task) and len(settings.tasks) < 2:
        return path
    if is_swept(task):
        return None
    raise UserError(f"{path}: has no {file.name}, the answers to task {name}. Generate them, or leave the task out.")


def _at_defaults(steering: Mapping[str, Sequence[Answered]], schema: AttributeSchema) -> dict[str, list[Answered]]:
    """Sweeps alone stand for their models: by the answers that were asked for the schema's defaults.

    A model may be asked for fewer attributes than this run's schema has: what it was asked for has to be at its default.
    """
    found = {
        model: [one for one in answers if one.asked and not schema.moved(one.asked)]
        for model, answers in steering.items()
    }
    if not found:
        raise UserError("no model that can be asked for attributes has answered: give answers or steering of one.")
    for model, answers in found.items():
        if not answers:
            raise UserError(
                f"steering of {model}: no answer was asked for the defaults of attribute_schema={schema.name}; give "
                "the model's own attribute_schema, or answers={NAME: FILE} as well."
            )
    return found
