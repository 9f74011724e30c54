"""What scripts/estimate.py does: estimate or suggest, or write the files that are made from estimates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from pydantic import Field

from nemo_mm_align.capacity.document import MODELS, recipes_by_rows, write_document
from nemo_mm_align.capacity.estimate import RESERVE, estimate_job
from nemo_mm_align.capacity.experiments import all_experiments, write_experiments
from nemo_mm_align.capacity.gpus import GPUS, REFERENCE_GPU, find_gpu
from nemo_mm_align.capacity.job import ANSWER_TOKENS, StartedRanks, read_job
from nemo_mm_align.capacity.measured import Comparison, compare, measured_steps
from nemo_mm_align.capacity.report import render
from nemo_mm_align.capacity.suggest import describe, suggest
from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.core.configuration import Count, Natural, StrictModel, keys_of, read_known
from nemo_mm_align.core.outputs import file_to_write, folder_to_write
from nemo_mm_align.core.repository import CONF


class WorkloadSettings(StrictModel):
    """The longest rows that are reckoned with; `length` None is ``model.max_length``."""

    length: Count | None = None
    answer_tokens: Count = ANSWER_TOKENS
    images_per_sample: Natural = 1


class EstimateSettings(StrictModel):
    """What conf/estimate.yaml has beside conf/train.yaml."""

    gpu: Literal[tuple(GPUS)] = REFERENCE_GPU  # type: ignore[valid-type]
    nodes: Count | None = None
    gpus_per_node: Count | None = None
    reserve: Annotated[float, Field(ge=0, lt=1)] = RESERVE
    suggest: bool = False
    workload: WorkloadSettings = WorkloadSettings()
    fused_attention: bool = True
    document: Path | None = None
    experiments: Path | None = None


def training_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of conf/estimate.yaml is conf/train.yaml."""
    return {key: value for key, value in values.items() if key not in keys_of(EstimateSettings)}


def compose_training(overrides: list[str]) -> dict[str, Any]:
    """Compose conf/train.yaml; mandatory values that are missing stay ``???``."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("train", overrides)
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return values


def experiment_texts() -> dict[str, str]:
    """Every file of conf/experiment/ as it should be, by name."""
    miniature: Any = OmegaConf.to_container(OmegaConf.load(CONF / "miniature.yaml"))
    return all_experiments(compose_training, miniature)


def comparisons() -> list[Comparison]:
    """Every step that was measured beside its estimate."""
    composed: dict[str, dict[str, Any]] = {}
    found = []
    for step in measured_steps():
        key = " ".join(step.overrides)
        composed.setdefault(key, compose_training(step.overrides))
        found.append(compare(step, composed[key]))
    return found


def document_text() -> str:
    """CAPACITY.md as it should be."""
    composed = {
        model: {method: compose_training([f"model={model}", f"recipe={method}"]) for method in recipes_by_rows()}
        for model in MODELS
    }
    return write_document(composed, comparisons())


def run_estimate(values: Mapping[str, Any]) -> str:
    """Do what conf/estimate.yaml asks for and return the text to print.

    Args:
        values: conf/estimate.yaml composed (all of conf/train.yaml is in it), as plain dictionaries.
    """
    settings, written = read_known(EstimateSettings, values, ""), []
    if settings.document:
        file_to_write(settings.document)
    if settings.experiments:
        folder_to_write(settings.experiments)
        texts = experiment_texts()
        write_experiments(settings.experiments, texts)
        written.append(f"{len(texts)} files in {settings.experiments}\n")
    if settings.document:
        write_text(settings.document, document_text())
        written.append(f"{settings.document}\n")
    if written:
        return "".join(written)
    return _answer(settings, values)


def _answer(asked: EstimateSettings, values: Mapping[str, Any]) -> str:
    gpu, nodes, gpus = find_gpu(asked.gpu), asked.nodes, asked.gpus_per_node
    if asked.suggest:
        planned = read_known(StartedRanks, values["trainer"], "trainer")
        nodes, gpus = nodes or planned.num_nodes or 1, gpus or planned.devices or gpu.per_node
    job = read_job(values, nodes, gpus, asked.workload.model_dump())
    job = replace(job, fused_attention=asked.fused_attention)
    if not asked.suggest:
        return render(estimate_job(job, gpu, asked.reserve))
    found = suggest(job, gpu, asked.reserve)
    settings = {
        "trainer.num_nodes": job.nodes,
        "trainer.devices": job.gpus_per_node,
        **{f"model.{name}": value for name, value in asdict(found.job.parallel).items()},
        "model.micro_batch_size": found.job.micro_batch_size,
        "model.micro_batch_tokens": found.job.micro_batch_tokens,
        "model.recompute": found.job.engine.recompute,
        "model.optim.use_distributed_optimizer": found.job.distributed_optimizer,
    }
    lines = [f"{key}={'null' if value is None else str(value).lower()}" for key, value in settings.items()]
    return f"{describe(found.job)}\nwhy: {found.reason}\n" + " ".join(lines) + "\n\n" + render(found.estimate)
