"""From the answers of all seeds to results.json and report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_mm_align.core.run_files import METRICS_FILE, read_facts, read_layout, read_metrics
from nemo_mm_align.core.run_health import read_health
from nemo_mm_align.evaluation.answer_files import read_answers
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.metrics import SeedAnswers
from nemo_mm_align.evaluation.report import choose_samples
from nemo_mm_align.evaluation.results import Layout, Results, TrainingFacts
from nemo_mm_align.evaluation.steering_report import SteeredSample
from nemo_mm_align.evaluation.summary import summarise, write_evaluation
from nemo_mm_align.evaluation.tables import ReportSample
from nemo_mm_align.evaluation.wording import label_of
from nemo_mm_align.miniature.folders import MiniatureRun
from nemo_mm_align.miniature.task import MiniatureTask
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.schema.image_paths import resolve_image
from nemo_mm_align.schema.records import Prompt, read_records

_SAMPLES, _STEERED, _CURVE_POINTS = 8, 2, 200


def write_outcome(run: MiniatureRun) -> tuple[Results, Path, Path]:
    """Judge all answers and write ``results.json`` and ``report.html`` into the run's folder; return both paths."""
    settings, task = run.settings, MiniatureTask(run.settings.attribute_schema)
    prompts = {prompt.id: prompt for prompt in read_records(run.evaluation_prompts, Prompt)}
    seeds = [_seed_answers(run, seed, prompts, task) for seed in run.seeds]
    first = run.seeds[0]
    training: dict[str, TrainingFacts] = {
        name: facts for name in settings.methods if (facts := training_facts(run.seed_folder(first) / name))
    }
    if settings.base == "train" and (facts := training_facts(run.out / "base" / "visual")):
        training["base"] = facts
    results = summarise(
        seeds,
        settings.attribute_schema,
        task,
        training=training,
        layouts=_layouts(run),
        settings=settings.model_dump(mode="json", exclude={"attribute_schema", "out"}),
        notes=_notes(run),
    )
    if settings.attribute_model:
        told = [json.loads(run.rating_report(seed).with_suffix(".json").read_text("utf-8")) for seed in run.seeds]
        results.attribute_model = [one["attributes"] for one in told]
        results.notes.append(_attribute_model(run, told[0]["verdicts"]))
    results_path, report_path = write_evaluation(
        run.out,
        results,
        settings.attribute_schema,
        _samples(run, prompts, seeds[0].methods, task),
        _steered(run, prompts, seeds[0].steering),
        task.cautions(results.methods),
    )
    return results, results_path, report_path


def _seed_answers(run: MiniatureRun, seed: int, prompts: Mapping[str, Prompt], task: MiniatureTask) -> SeedAnswers:
    def judged(path: Path) -> list[ScoredAnswer]:
        return task.score(read_answers(path, prompts, task.schema, run.evaluation_prompts))

    steering = {name: run.answers(seed, f"{name}_steering") for name in run.steered}
    return SeedAnswers(
        seed=seed,
        methods={name: judged(run.answers(seed, name)) for name in run.answering},
        steering={name: judged(path) for name, path in steering.items() if path.is_file()},
        text_before=judged(run.text_before) if run.text_before.is_file() else [],
    )


def training_facts(folder: Path) -> TrainingFacts | None:
    """Return what a run's folder says of its training; None where it holds none."""
    facts = read_facts(folder)
    if facts is None:
        return None
    metrics = read_metrics(folder / METRICS_FILE)
    stride = max(1, len(metrics) // _CURVE_POINTS)
    return TrainingFacts(
        examples=facts["samples"],
        epochs=round(facts["epochs"], 2),
        optimizer_steps=facts["total_steps"],
        seconds=round(sum(line["seconds"] for line in metrics), 1),
        losses=[(int(line["step"]), line["loss"]) for line in metrics[::stride]],
        settings=_shown(facts),
        health=read_health(folder).verdict,
    )


def _shown(facts: Mapping[str, Any]) -> dict[str, Any]:
    lora, optim = facts["lora"], facts["optim"]
    shown = {"batch": facts["global_batch_size"], "lr": optim["lr"], "projector_lr": optim["projector_lr"]}
    shown |= {"lora_rank": lora["rank"], "lora_alpha": lora["alpha"]} if lora else {"lora": "none"}
    return shown | {key: value for key, value in facts["recipe"].items() if key in ("beta", "sft_loss_weight")}


def _layouts(run: MiniatureRun) -> dict[str, Layout]:
    folder = run.seed_folder(run.seeds[0])
    found: dict[str, Any] = {name: read_facts(folder / name) for name in run.settings.methods}
    if run.settings.base == "train":
        found |= {f"base_{name}": read_facts(run.out / "base" / name) for name in ("text", "captions", "visual")}
    layouts = {name: facts["layout"] for name, facts in found.items() if facts}
    for name, path in {"sample": folder / "candidates.jsonl", "generate": run.answers(run.seeds[0], "base")}.items():
        layout = read_layout(path)
        if layout:
            layouts[name] = layout
    return {
        name: Layout(
            world_size=layout["world_size"],
            tensor=layout["tensor_model_parallel_size"],
            pipeline=layout["pipeline_model_parallel_size"],
            data=layout["data_parallel_size"],
            sequence_parallel=layout.get("sequence_parallel", False),
        )
        for name, layout in layouts.items()
    }


def _notes(run: MiniatureRun) -> list[str]:
    shipped = "the base that ships with the project" if run.settings.base == "shipped" else "a base trained in this run"
    later = {name: before for name in run.settings.methods if (before := find_recipe(name).after)}
    but = "".join(
        f" {label_of(name)} goes on from {label_of(before)}, on its answers." for name, before in later.items()
    )
    return [
        f"All methods see the same prompts. They start from {shipped}, and the answers they learn from were sampled by it; SFT "
        f"alone learns from the judge's reference answers.{but} Held-out images and question wordings occur in no training set."
    ]


def _attribute_model(run: MiniatureRun, verdicts: Mapping[str, Sequence[str]]) -> str:
    """What the first seed's attribute model is worth, in a paragraph."""
    sentences = " ".join(sentence for of_one in verdicts.values() for sentence in of_one)
    return f"A model that rates answers ({run.rating_report(run.seeds[0]).relative_to(run.out)}): {sentences}"


def _samples(
    run: MiniatureRun, prompts: Mapping[str, Prompt], methods: Mapping[str, Any], task: MiniatureTask
) -> list[ReportSample]:
    by_prompt = {name: {answer.prompt_id: answer for answer in answers} for name, answers in methods.items()}
    chosen = choose_samples(list(prompts.values()), methods["base"], _SAMPLES, run.seeds[0])
    return [
        ReportSample(
            prompt=prompt,
            image_paths=tuple(resolve_image(path, run.evaluation_prompts) for path in prompt.images),
            answers={name: answers[prompt.id] for name, answers in by_prompt.items()},
            reference=task.reference(prompt),
        )
        for prompt in chosen
    ]


def _steered(
    run: MiniatureRun, prompts: Mapping[str, Prompt], steering: Mapping[str, Sequence[ScoredAnswer]]
) -> list[SteeredSample]:
    """Of the first steered model, questions drawn at random and answered at every setting."""
    for method, answers in steering.items():
        asked = {answer.prompt_id: prompts[answer.prompt_id] for answer in answers}
        chosen = choose_samples(list(asked.values()), answers, _STEERED, run.seeds[0])
        return [
            SteeredSample(
                method=method,
                prompt=prompt,
                image_paths=tuple(resolve_image(path, run.evaluation_prompts) for path in prompt.images),
                answers=[answer for answer in answers if answer.prompt_id == prompt.id],
            )
            for prompt in chosen
        ]
    return []
