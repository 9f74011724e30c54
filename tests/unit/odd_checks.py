"""What each command does with its settings before anything slow begins, in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.benchmarks.settings import BenchmarkSettings
from nemo_mm_align.capacity.run import run_estimate, training_of
from nemo_mm_align.core.configuration import read
from nemo_mm_align.datasets.build_stage import build_from_config
from nemo_mm_align.evaluation.attribute_report.stage import report_from_config
from nemo_mm_align.evaluation.settings import settings_of
from nemo_mm_align.evaluation.tasks.task import build_task
from nemo_mm_align.inference import annotate_settings, probe_settings
from nemo_mm_align.inference import early as inference
from nemo_mm_align.labeling.quality.stage import agreement_from_config
from nemo_mm_align.labeling.registry import build_judge
from nemo_mm_align.labeling.stage import label_from_config
from nemo_mm_align.launch.launch import launch
from nemo_mm_align.miniature.settings import MiniatureSettings
from nemo_mm_align.parallel import conversion_checks
from nemo_mm_align.preflight.doctor import DoctorSettings, job_from_config
from nemo_mm_align.training import early as training
from nemo_mm_align.training.settings import read_values


def _given(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def _open(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True)


def _evaluation(values: Any) -> Any:
    schema = settings_of(values).attribute_schema
    return build_task(values["task"], schema), build_judge(values["judge"], schema)


CHECKS: dict[str, Callable[[DictConfig], Any]] = {
    "train": training.check_early,
    "generate": lambda config: inference.check_early(_given(config)),
    "sample": lambda config: inference.check_early(_given(config)),
    "annotate": lambda config: annotate_settings.check_early(_given(config)),
    "probe": lambda config: probe_settings.check_early(_given(config)),
    "attribute_report": lambda config: report_from_config(_given(config)),
    "evaluate": lambda config: _evaluation(_given(config)),
    "label": lambda config: label_from_config(_given(config)),
    "build": build_from_config,
    "agreement": lambda config: agreement_from_config(_given(config)),
    "estimate": lambda config: (read_values(training_of(_open(config))), run_estimate(_open(config))),
    "convert": lambda config: conversion_checks.check_early(_given(config)),
    "doctor": lambda config: job_from_config(read(DoctorSettings, _open(config)), []),
    "miniature": lambda config: read(MiniatureSettings, _given(config)),
    "launch": launch,
    "benchmark": lambda config: read(BenchmarkSettings, _given(config)),
}
