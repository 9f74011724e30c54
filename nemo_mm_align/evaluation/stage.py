"""The stage `evaluate`: answer files in, results.json, report.html and the judged answers out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.configuration import StrictModel, read
from nemo_mm_align.errors import UserError
from nemo_mm_align.evaluation.answers import AnswerJudge, JudgedAnswer
from nemo_mm_align.evaluation.metrics import SeedAnswers
from nemo_mm_align.evaluation.report import choose_samples
from nemo_mm_align.evaluation.results import Results
from nemo_mm_align.evaluation.summary import summarise, write_evaluation
from nemo_mm_align.evaluation.tables import ReportSample
from nemo_mm_align.lock import owned_output
from nemo_mm_align.outputs import check_folder, folder_to_write
from nemo_mm_align.records import CandidateSet, Prompt, prompt_kind, read_records, resolve_image, write_records

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


def evaluate_from_config(
    config: Mapping[str, Any], judge: AnswerJudge, reference: Callable[[Prompt], str] | None = None
) -> Results:
    """Run the stage on a plain configuration (``conf/evaluate.yaml``, resolved)."""
    return evaluate(read(EvaluateSettings, config), judge, reference)


def evaluate(
    settings: EvaluateSettings, judge: AnswerJudge, reference: Callable[[Prompt], str] | None = None
) -> Results:
    """Judge all answers and write results.json, report.html and ``judged/<method>.jsonl``.

    Args:
        settings: what to evaluate.
        judge: knows the truth of the prompts.
        reference: what a right answer to a prompt says, for the samples.

    Raises:
        UserError: a file is missing or broken, a prompt is unknown, unanswered or answered several times, or carries
            no truth, or `out` cannot be written or is being written by another process. Nothing is written then.
    """
    check_folder(settings.out)
    prompts = {
        prompt.id: prompt for prompt in read_records(settings.prompts, prompt_kind(settings.add_image_placeholders))
    }
    schema = settings.attribute_schema
    methods = {name: judge_file(path, prompts, judge, schema) for name, path in settings.answers.items()}
    for name, answers in methods.items():
        _check_complete(settings.answers[name], answers, prompts)
    seed = SeedAnswers(
        seed=settings.seed,
        methods=methods,
        steering={
            "steered": [answer for path in settings.steering for answer in judge_file(path, prompts, judge, schema)]
        }
        if settings.steering
        else {},
        text_before=judge_file(settings.text_before, prompts, judge, schema) if settings.text_before else (),
    )
    results = summarise([seed], schema)
    samples = _samples(settings, prompts, methods, reference)
    with owned_output(folder_to_write(settings.out)):
        for name, answers in methods.items():
            write_records(settings.out / "judged" / f"{name}.jsonl", answers)
        paths = write_evaluation(settings.out, results, schema, samples)
    log.info("wrote %s and %s", *paths)
    return results


def judge_file(
    path: Path, prompts: Mapping[str, Prompt], judge: AnswerJudge, schema: AttributeSchema
) -> list[JudgedAnswer]:
    """Judge the answers of a file; `asked` is what ``sampling.attributes`` says: all that the model was asked for.

    Raises:
        UserError: an answer to an unknown prompt, or several candidates of one prompt.
    """
    judged: list[JudgedAnswer] = []
    for line in read_records(path, CandidateSet):
        if line.prompt_id not in prompts:
            raise UserError(f"{path}: answers prompt {line.prompt_id}, which is not in the prompts file; give its own.")
        if len(line.candidates) != 1:
            raise UserError(
                f"{path}: prompt {line.prompt_id} has {len(line.candidates)} candidates; evaluation reads one answer "
                "per prompt: generate with one candidate."
            )
        candidate = line.candidates[0]
        answer = judge(prompts[line.prompt_id], candidate.text, candidate.num_tokens)
        attributes = line.sampling.get("attributes")
        judged.append(answer.model_copy(update={"asked": schema.check_some(attributes) if attributes else None}))
    return judged


def _check_complete(path: Path, answers: Sequence[JudgedAnswer], prompts: Mapping[str, Prompt]) -> None:
    missing = sorted(prompts.keys() - {answer.prompt_id for answer in answers})
    if missing:
        raise UserError(
            f"{path}: no answer to {len(missing)} of {len(prompts)} prompts, for example {missing[0]}. "
            "Generate the rest, or give a prompts file with the answered ones."
        )


def _samples(
    settings: EvaluateSettings,
    prompts: Mapping[str, Prompt],
    methods: Mapping[str, Sequence[JudgedAnswer]],
    reference: Callable[[Prompt], str] | None,
) -> list[ReportSample]:
    by_prompt = {name: {answer.prompt_id: answer for answer in answers} for name, answers in methods.items()}
    chosen = choose_samples(list(prompts.values()), next(iter(methods.values())), settings.samples, settings.seed)
    return [
        ReportSample(
            prompt=prompt,
            image_paths=tuple(resolve_image(path, settings.prompts, settings.image_root) for path in prompt.images),
            answers={name: answers[prompt.id] for name, answers in by_prompt.items()},
            reference=reference(prompt) if reference else "",
        )
        for prompt in chosen
    ]
