"""From the launcher's configuration to submitted jobs."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.core.configuration import check_section, read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import ROOT
from nemo_mm_align.launch.checks import find_faults, warn_of_missing_mounts
from nemo_mm_align.launch.cost_table import cost_text
from nemo_mm_align.launch.costs import costs_of
from nemo_mm_align.launch.interactive import render_interactive
from nemo_mm_align.launch.jobs import Job
from nemo_mm_align.launch.kubernetes import condition, kind, object_name, render_manifest
from nemo_mm_align.launch.rounds import jobs_of_launch
from nemo_mm_align.launch.secrets import check_env_vars, check_text, job_environment
from nemo_mm_align.launch.settings import InteractiveCluster, KubernetesCluster, LaunchSettings, SlurmCluster
from nemo_mm_align.launch.slurm import render_submission, warn_of_unknown
from nemo_mm_align.workflow.round_files import TABLE_FILE
from nemo_mm_align.workflow.stages import STAGES

logger = logging.getLogger(__name__)

IMAGE_ROOT = Path("/opt/nemo_mm_align")
"""The checkout inside an image built from containers/Dockerfile."""

LOG_FILE = "launcher.log"
COMMAND_FILE = "launcher_cmd.log"


@dataclass(frozen=True)
class Rendered:
    """A job, the file that holds it and the file with its settings, neither written yet."""

    job: Job
    path: Path
    text: str
    settings_path: Path
    settings_text: str


def launch(config: DictConfig) -> str:
    """Write and submit the jobs of a launch, or only say what they would be (``dry_run``); return what to print.

    Raises:
        UserError: anything that is wrong, found before the first file is written; sbatch refused a job; a stage that
            ran on this machine failed.
    """
    settings = read_settings(config)
    check_env_vars(settings.env_vars)
    jobs = jobs_of_launch(settings, config)
    rendered = [render(job, settings) for job in jobs]
    for item in rendered:
        check_text(item.path.name, item.text)
        check_text(item.settings_path.name, item.settings_text)
    _warn(settings)
    _raise_or_warn(find_faults(jobs, settings), settings.dry_run)
    if settings.dry_run:
        return _preview(rendered, settings) + "\n" + cost_text(costs_of(settings, jobs), settings)
    _write(rendered)
    environment = job_environment(settings.wandb_api_key_file)
    if isinstance(settings.cluster, SlurmCluster):
        return _submit(rendered, settings, environment)
    if isinstance(settings.cluster, InteractiveCluster):
        return _run_here(rendered, settings, environment)
    return _kubectl_lines(rendered, settings.cluster)


def read_settings(config: DictConfig) -> LaunchSettings:
    """Read the launcher's own settings; those of the stages are read stage by stage."""
    own = [str(key) for key in config if key not in STAGES]
    values: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
        OmegaConf.masked_copy(config, own), resolve=True, throw_on_missing=True
    )
    for section in ("run", "cluster"):
        check_section(values[section], section)
    values["launcher_scripts_path"] = values["launcher_scripts_path"] or _code(values["cluster"].get("type"))
    values["dry_run"] = values["dry_run"] or os.environ.get("NEMO_LAUNCHER_DEBUG") == "1"
    if values["run"].get("name") is None:
        raise UserError("the run has no name. Give experiment=NAME (a file of conf/experiment), or run.name=NAME.")
    return read(LaunchSettings, values)


def _code(cluster_type: str) -> Path:
    """Where the jobs find this checkout: pods see nothing of this machine, only what their image holds."""
    return IMAGE_ROOT if cluster_type == "k8s" else ROOT


def render(job: Job, settings: LaunchSettings) -> Rendered:
    """Return a job's script or manifest and its settings, with the paths where they belong."""
    cluster = settings.cluster
    folder = cluster.manifest_dir if isinstance(cluster, KubernetesCluster) else settings.run.results_dir
    path = folder / f"{job.name}_submission.sh"
    if isinstance(cluster, SlurmCluster):
        text = render_submission(job, settings, cluster)
    elif isinstance(cluster, InteractiveCluster):
        text = render_interactive(job, settings)
    else:
        path, text = folder / f"{job.name}.yaml", render_manifest(job, settings, cluster)
    resolved = {
        "launch": settings.model_dump(mode="json", exclude={"container_mounts"})
        | {"container_mounts": list(map(str, settings.mounts()))},
        job.stage: OmegaConf.to_container(job.composed.config, resolve=True),
    }
    settings_text = yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)
    return Rendered(job, path, text, folder / job.settings_file, settings_text)


def _warn(settings: LaunchSettings) -> None:
    if isinstance(settings.cluster, SlurmCluster):
        warn_of_unknown(settings.cluster)
    if not isinstance(settings.cluster, KubernetesCluster):
        warn_of_missing_mounts(settings)
    if settings.container and isinstance(settings.cluster, InteractiveCluster):
        logger.warning(
            "container=%s: cluster=interactive runs here as this is, inside a container or not", settings.container
        )


def _raise_or_warn(faults: list[str], dry_run: bool) -> None:
    if faults and not dry_run:
        raise UserError("nothing was submitted:\n" + "\n".join(f"  {fault}" for fault in faults))
    for fault in faults:
        logger.warning("%s", fault)


def _preview(rendered: list[Rendered], settings: LaunchSettings) -> str:
    parts = []
    for index, item in enumerate(rendered):
        previous = f"<job of {rendered[index - 1].job.title}>" if index else None
        parts.append(f"# {item.path}\n{item.text}")
        if isinstance(settings.cluster, SlurmCluster):
            parts.append(f"# {shlex.join(_sbatch(item, settings, previous))}\n")
    if isinstance(settings.cluster, KubernetesCluster):
        parts.append(_kubectl_lines(rendered, settings.cluster))
    return "\n".join(parts)


def _write(rendered: list[Rendered]) -> None:
    for item in rendered:
        item.path.parent.mkdir(parents=True, exist_ok=True)
        item.path.write_text(item.text, encoding="utf-8")
        item.settings_path.write_text(item.settings_text, encoding="utf-8")
    command = shlex.join([sys.executable, *sys.argv])
    check_text(COMMAND_FILE, command)
    _append(rendered[0].path.parent / COMMAND_FILE, command)


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now().isoformat(timespec='seconds')} {line}\n")


def _sbatch(item: Rendered, settings: LaunchSettings, previous: str | None) -> list[str]:
    dependency = ",".join(filter(None, [f"afterok:{previous}" if previous else None, settings.run.dependency]))
    return ["sbatch", "--parsable", *([f"--dependency={dependency}"] if dependency else []), str(item.path)]


def _submit(rendered: list[Rendered], settings: LaunchSettings, environment: dict[str, str]) -> str:
    numbers: list[str] = []
    lines = []
    for item in rendered:
        command = _sbatch(item, settings, numbers[-1] if numbers else None)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            waiting = f" Submitted before it: {', '.join(numbers)} (scancel {' '.join(numbers)})." if numbers else ""
            raise UserError(f"sbatch refused {item.path}: {done.stderr.strip() or done.stdout.strip()}.{waiting}")
        numbers.append(done.stdout.strip().partition(";")[0])
        lines.append(f"stage {item.job.title}: job {numbers[-1]}, {item.path}\n")
        _append(item.path.parent / LOG_FILE, lines[-1].rstrip())
    log = settings.run.results_dir / f"log-{rendered[0].job.name}_{numbers[0]}"
    return "".join([*lines, f"tail -F {shlex.quote(f'{log}.out')} {shlex.quote(f'{log}.err')}\n"])


def _run_here(rendered: list[Rendered], settings: LaunchSettings, environment: dict[str, str]) -> str:
    for item in rendered:
        log = settings.run.results_dir / LOG_FILE
        _append(log, f"stage {item.job.title}: bash {item.path}")
        logger.info("stage %s: bash %s", item.job.title, item.path)
        code = subprocess.run(["bash", str(item.path)], env=environment, check=False).returncode
        _append(log, f"stage {item.job.title}: exit code {code}")
        if code != 0:
            raise UserError(
                f"stage {item.job.title} ended with exit code {code}; its messages are above. The same command goes on "
                "from there: finished stages find their work done."
            )
    table = settings.run.results_dir / TABLE_FILE
    said = f"{table.read_text(encoding='utf-8')}\n" if settings.rounds.count and table.is_file() else ""
    return f"{said}done; results in {settings.run.results_dir}\n"


def _kubectl_lines(rendered: list[Rendered], cluster: KubernetesCluster) -> str:
    lines = ["# One after the other; a wait ends when its stage has succeeded (kubectl describe: why it has not):"]
    for item in rendered:
        target = f"{kind(item.job)}/{object_name(item.job, cluster)}"
        lines.append(f"kubectl apply -f {shlex.quote(str(item.path))}")
        lines.append(f"kubectl -n {cluster.namespace} wait --for={condition(item.job)} --timeout=-1s {target}")
    return "\n".join(lines) + "\n"
