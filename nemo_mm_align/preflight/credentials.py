"""Whether the keys that the stages need are there; names are shown, values never."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nemo_mm_align.core.credentials import judge_key_variables, wandb_login
from nemo_mm_align.preflight.finding import Finding, amber, green, red
from nemo_mm_align.preflight.job import Job
from nemo_mm_align.preflight.storage import looks_like_hub_name

_PASS_ON = "export it where you submit; the launcher passes variables on and writes no value into a script"


def check_credentials(job: Job, environment: Mapping[str, str]) -> list[Finding]:
    """Keys of the judge, of Weights & Biases and of the hub, as far as the job's stages use them."""
    findings = []
    if job.needs_judge:
        findings.append(_judge(job.judge, environment))
    if job.trains and job.value("exp_manager.create_wandb_logger"):
        findings.append(_wandb(environment))
    if job.trains and looks_like_hub_name(str(job.value("data.train", ""))):
        findings.append(_hub(str(job.value("data.train")), environment))
    return findings


def _judge(settings: Mapping[str, Any], environment: Mapping[str, str]) -> Finding:
    title = f"credentials: {str(settings.get('_target_', 'judge')).rpartition('.')[2]}"
    file, names = settings.get("api_key_file"), judge_key_variables(settings)
    if file:
        if os.access(file, os.R_OK):
            return green(title, f"{file} can be read")
        return red(title, f"{file} cannot be read here", "mount it (container_mounts), or correct judge.api_key_file")
    if not names:
        return green(title, "needs no key")
    found = [name for name in names if environment.get(name, "").strip()]
    if found:
        return green(title, f"{found[0]} is set")
    lacking = f"neither {' nor '.join(names)} is set" if len(names) > 1 else f"{names[0]} is not set"
    return red(title, lacking, f"{_PASS_ON}; or judge.api_key_file=FILE")


def _wandb(environment: Mapping[str, str]) -> Finding:
    title = "credentials: Weights & Biases"
    login = wandb_login(environment)
    if login is not None:
        return green(title, login)
    remedy = f"WANDB_API_KEY: {_PASS_ON}; or WANDB_MODE=offline, or exp_manager.create_wandb_logger=false"
    return red(title, "WANDB_API_KEY is not set, and the training would stop at its logger", remedy)


def _hub(name: str, environment: Mapping[str, str]) -> Finding:
    title = "credentials: Hugging Face"
    if environment.get("HF_HUB_OFFLINE") == "1" or environment.get("HF_DATASETS_OFFLINE") == "1":
        return amber(title, f"{name} must lie in the cache: offline mode is on", "download it before on a login node")
    if environment.get("HF_TOKEN", "").strip():
        return green(title, "HF_TOKEN is set")
    return amber(title, f"HF_TOKEN is not set; {name} is fetched anonymously", f"HF_TOKEN for gated data: {_PASS_ON}")
