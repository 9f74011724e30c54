"""What the user can set for `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from nemo_mm_align.core.configuration import StrictModel, read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.outputs import check_folder
from nemo_mm_align.evaluation.asking import AskingSettings
from nemo_mm_align.llm.running.budget import BudgetSettings
from nemo_mm_align.llm.running.estimates import EstimateSettings
from nemo_mm_align.llm.running.runner import RunnerSettings
from nemo_mm_align.schema.attributes import AttributeSchema

STEERED = "steered"
"""What sweeps that no name was given for are called."""


_NOT_COMPARED = ("answers", "checkpoints", "steering", "tasks", "prompts", "text_before", "log_to", "dry_run")


class EvaluateSettings(StrictModel):
    """Settings of the stage, as in ``conf/evaluate.yaml``.

    Args:
        prompts: JSONL file of the prompts; None for a task that brings its own.
        answers: per method, a JSONL file with one answer to each prompt, or, for several tasks, a folder with a file
            ``<task>.jsonl`` each.
        checkpoints: per method, a model that answers now (`generating`); its answers go into ``<out>/answers``.
        generate: further settings of ``scripts/generate.py`` for these models.
        processes: processes (GPUs) that a model answers with.
        steering: JSONL files with answers that were asked for attribute values, one attribute moved at a time: a list, or one
            list per model.
        text_before: JSONL file with answers to the text instructions before visual tuning.
        tasks: several tasks in one evaluation, by name, with settings that differ from ``conf/task``.
        out: the folder to write.
        image_root: folder of the images; by default they lie relative to the prompts file.
        add_image_placeholders: as in `generate`.
        attribute_schema: what is judged.
        samples: how many sample prompts the report shows.
        seed: draws the samples and the resamples, and names the run.
        repeat: how often a judge is asked each of a task's own questions.
        dry_run: ask nobody and write nothing; say what judging would cost.
        compare: folders of finished evaluations, to be compared with each other instead.
        log_to: folder of a training run whose W&B run gets the tables.
        runner, budget, estimate: how a judge is asked.
    """

    prompts: Path | None = None
    answers: dict[str, Path] = {}
    checkpoints: dict[str, Path] = {}
    generate: dict[str, Any] = {}
    processes: int = Field(default=1, ge=1)
    steering: dict[str, list[Path]] = {}
    text_before: Path | None = None
    tasks: dict[str, dict[str, Any]] = {}
    out: Path
    image_root: Path | None = None
    add_image_placeholders: bool = False
    attribute_schema: AttributeSchema
    samples: int = Field(default=8, ge=0)
    seed: int = 0
    repeat: int = Field(default=1, ge=1)
    dry_run: bool = False
    compare: list[Path] = []
    log_to: Path | None = None
    runner: RunnerSettings = RunnerSettings()
    budget: BudgetSettings = BudgetSettings()
    estimate: EstimateSettings = EstimateSettings()

    @field_validator("steering", mode="before")
    @classmethod
    def _of_one_model(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name): files if isinstance(files, list) else [files] for name, files in value.items()}
        return {STEERED: value} if value else {}

    @field_validator("answers", "checkpoints", "generate", mode="before")
    @classmethod
    def _none_given(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("tasks", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name): said or {} for name, said in value.items()}
        return {str(name): {} for name in value or []} if value is None or isinstance(value, list) else value

    @model_validator(mode="after")
    def _something_is_evaluated(self) -> EvaluateSettings:
        if self.compare and (unread := self._given(*_NOT_COMPARED)):
            raise ValueError(f"compare is of finished evaluations; give it without {', '.join(unread)}")
        if not self.checkpoints and (unread := self._given("generate", "processes")):
            raise ValueError(
                f"{', '.join(unread)} is for models that answer now; give it with checkpoints={{NAME: FOLDER}}"
            )
        if not (self.answers or self.checkpoints or self.steering or self.compare):
            raise ValueError(
                "nothing to evaluate; give answers={NAME: FILE}, checkpoints={NAME: FOLDER} or steering=[FILE]"
            )
        for name in (*self.answers, *self.steering):
            if Path(name).name != name or name == "..":
                raise ValueError(f"the method {name!r}: its files are called so; leave slashes out of its name")
        if twice := sorted(self.answers.keys() & self.checkpoints.keys()):
            raise ValueError(f"{', '.join(twice)} stands in answers and in checkpoints; give each name once")
        if self.dry_run and self.checkpoints:
            raise ValueError("dry_run says what judging costs, for which there must be answers; generate them first")
        return self

    def _given(self, *names: str) -> list[str]:
        """Those of the settings that do not have their default."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]

    @property
    def asking(self) -> AskingSettings:
        """How a judge is asked."""
        return AskingSettings(runner=self.runner, budget=self.budget, estimate=self.estimate, repeat=self.repeat)

    @property
    def ratings_ledger(self) -> Path:
        """What a judge said of answers on the schema."""
        return self.out.with_name(f"{self.out.name}.ledger.jsonl")

    @property
    def questions_ledger(self) -> Path:
        """What a judge said to tasks' own questions."""
        return self.out.with_name(f"{self.out.name}.questions.ledger.jsonl")

    @property
    def files(self) -> list[Path]:
        """All files and folders that are read."""
        swept = [path for files in self.steering.values() for path in files]
        single = [path for path in (self.prompts, self.text_before) if path is not None]
        return [*single, *self.answers.values(), *swept]


def settings_of(config: Mapping[str, Any]) -> EvaluateSettings:
    """Return the settings of a plain configuration (``conf/evaluate.yaml``, resolved)."""
    return read(EvaluateSettings, {key: value for key, value in config.items() if key not in ("task", "judge")})


def check_start(settings: EvaluateSettings) -> None:
    """Raise `UserError` for what can be known to go wrong before a judge's client is imported."""
    check_folder(settings.out)
    for path in settings.files:
        if not path.exists():
            raise UserError(f"{path}: no such file. Give the path of a JSONL file.")
