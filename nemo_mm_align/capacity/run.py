"""What scripts/estimate.py does: estimate or suggest, or write the files that are made from estimates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from nemo_mm_align.atomic import write_text
from nemo_mm_align.capacity.document import METHODS, MODELS, write_document
from nemo_mm_align.capacity.estimate import estimate_job
from nemo_mm_align.capacity.experiments import all_experiments, write_experiments
from nemo_mm_align.capacity.gpus import find_gpu
from nemo_mm_align.capacity.job import read_job
from nemo_mm_align.capacity.report import render
from nemo_mm_align.capacity.suggest import describe, suggest
from nemo_mm_align.outputs import file_to_write
from nemo_mm_align.repository import CONF


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


def document_text() -> str:
    """CAPACITY.md as it should be."""
    composed = {
        model: {method: compose_training([f"model={model}", f"recipe={method}"]) for method in METHODS}
        for model in MODELS
    }
    return write_document(composed)


def run_estimate(values: Mapping[str, Any]) -> str:
    """Do what conf/estimate.yaml asks for and return the text to print.

    Args:
        values: conf/estimate.yaml composed (all of conf/train.yaml is in it), as plain dictionaries.
    """
    written = []
    if values["document"]:
        file_to_write(values["document"])
    if values["experiments"]:
        texts = experiment_texts()
        write_experiments(Path(values["experiments"]), texts)
        written.append(f"{len(texts)} files in {values['experiments']}\n")
    if values["document"]:
        write_text(values["document"], document_text())
        written.append(f"{values['document']}\n")
    if written:
        return "".join(written)
    return _answer(values)


def _answer(values: Mapping[str, Any]) -> str:
    gpu, reserve = find_gpu(values["gpu"]), float(values["reserve"])
    nodes, gpus = values["nodes"], values["gpus_per_node"]
    if values["suggest"]:
        trainer = values["trainer"]
        nodes, gpus = nodes or trainer["num_nodes"] or 1, gpus or trainer["devices"] or gpu.per_node
    job = replace(read_job(values, nodes, gpus, values["workload"]), fused_attention=values["fused_attention"])
    if not values["suggest"]:
        return render(estimate_job(job, gpu, reserve))
    found = suggest(job, gpu, reserve)
    settings = {
        "trainer.num_nodes": job.nodes,
        "trainer.devices": job.gpus_per_node,
        **{f"model.{name}": value for name, value in asdict(found.job.parallel).items()},
        "model.micro_batch_size": found.job.micro_batch_size,
        "model.recompute": found.job.engine.recompute,
        "model.optim.use_distributed_optimizer": found.job.distributed_optimizer,
    }
    lines = [f"{key}={'null' if value is None else str(value).lower()}" for key, value in settings.items()]
    return f"{describe(found.job)}\nwhy: {found.reason}\n" + " ".join(lines) + "\n\n" + render(found.estimate)
