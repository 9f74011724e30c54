"""A job as one sbatch file."""

from __future__ import annotations

import logging

from nemo_mm_align.core.run_files import FAULT_FILE, FAULT_FILE_VARIABLE, JOB_VARIABLE, STOP_FILE_VARIABLE
from nemo_mm_align.launch import script
from nemo_mm_align.launch.jobs import Job
from nemo_mm_align.launch.settings import LaunchSettings, SlurmCluster
from nemo_mm_align.launch.shell import RUN_FUNCTION, command_lines, python_words, quote, torchrun_words

logger = logging.getLogger(__name__)

_EVERYWHERE = ("account", "qos", "reservation", "nodelist", "exclude")
_WITH_GPUS = ("constraint", "exclusive", "gpus_per_task", "gres", "cpus_per_task", "mem")

_RENDEZVOUS = """\
# Where the ranks meet: the first node's address (its name where the site hides addresses), and another port after each
# restart, since what is left of the former start may still hold the old one.
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_ADDR=$(scontrol show node "$first_node" 2>/dev/null | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p' | head -n 1)
export MASTER_ADDR=${MASTER_ADDR:-$first_node}
export MASTER_PORT=$((15000 + (SLURM_JOB_ID * 16 + restarts) % 16000))"""

_STOP_BY_FILE = """\
# Slurm sends USR1 before the time limit: the ranks look for this file, save and end.
rm -f "$stop_file"
out_of_time=no
trap 'interrupted=yes; out_of_time=yes; echo "asked to stop"; touch "$stop_file"' USR1"""

_STOP_BY_SIGNAL = """\
# Slurm sends USR1 before the time limit: the stage writes what it has and ends.
trap 'interrupted=yes; echo "asked to stop"; scancel --signal=TERM "$SLURM_JOB_ID"' USR1"""

_STOPPED = """\
# Somebody else made the file: the run shall end here, not start again.
if [ "$out_of_time" = no ] && [ -e "$stop_file" ]; then
    echo "stopped by $stop_file; the same launch goes on from here" >&2
    exit $((code > 0 ? code : 1))
fi"""

# Above 128 a signal ended them: the job is preempted or requeued, and goes on when it is started again.
_RED = '[ "$code" -gt 0 ] && [ "$code" -lt 128 ]'

_AGAIN = """\
# Not finished: start again, as the same job, so that what depends on it waits. Slurm ends this shell; leaving it before
# would end the job.
if [ "$restarts" -lt "$max_requeues" ]; then
    echo "not finished (exit code $code): requeue $((restarts + 1)) of $max_requeues"
    scontrol requeue "$SLURM_JOB_ID" && sleep 600
fi
echo "not finished after $restarts restarts (exit code $code); the same launch goes on from here" >&2
exit $((code > 0 ? code : 1))"""


def render_submission(job: Job, settings: LaunchSettings, cluster: SlurmCluster) -> str:
    """Return the text of a job's sbatch file."""
    code = settings.launcher_scripts_path
    parts = [
        ["#!/bin/bash", *directives(job, settings, cluster)],
        [script.origin(job)],
        ["set -u"],
        [*script.variable_lines(job, settings)],
        script.skip_lines(job),
        [f"max_requeues={cluster.max_requeues}", "restarts=${SLURM_RESTART_COUNT:-0}"],
        [_RENDEZVOUS] if job.ranked else [],
        [] if settings.container else [f"cd {quote(code)} || exit 1"],
        [
            'mkdir -p "$results"',
            f"fault_file=$results/{FAULT_FILE}",
            f'export {FAULT_FILE_VARIABLE}="$fault_file"',
            'rm -f "$fault_file"',
        ],
        _job_lines(settings),
        [_STOP_BY_FILE if job.ranked else _STOP_BY_SIGNAL],
        [RUN_FUNCTION],
        [*_body(job, settings, cluster)],
        script.diverged_lines(job),
        [
            script.SETTINGS_FAULT,
            "# Finished, however it ended." if job.done_file else "# Finished.",
            f"if {script.finished(job)}; then",
            "    exit 0",
            "fi",
            *([_STOPPED] if job.ranked else []),
            _AGAIN,
        ],
    ]
    return script.text_of(parts)


def _job_lines(settings: LaunchSettings) -> list[str]:
    """Return what names this job to the lock on its results, where Slurm runs one job of this name and user at a time."""
    if "singleton" not in (settings.run.dependency or ""):
        return []
    name = '"${SLURM_CLUSTER_NAME:-}/${SLURM_JOB_USER:-}/${SLURM_JOB_NAME:-}"'
    return [
        "# One job of this name runs at a time: a start of it may go on in a folder that a lost one on another node has left.",
        f"export {JOB_VARIABLE}={name}",
    ]


def directives(job: Job, settings: LaunchSettings, cluster: SlurmCluster) -> list[str]:
    """Return the ``#SBATCH`` lines."""
    log = settings.run.results_dir / f"log-{job.name}_%j"
    torchrun = cluster.process_launcher == "torchrun"
    options: dict[str, object] = {
        "job_name": f"{cluster.job_name_prefix}{job.name}",
        "partition": cluster.partition if job.ranked else cluster.cpu_partition or cluster.partition,
        **{name: getattr(cluster, name) for name in _EVERYWHERE},
        "nodes": job.nodes,
        "ntasks_per_node": job.processes_per_node if job.ranked and not torchrun else 1,
        "gpus_per_node": cluster.gpus_per_node if job.ranked else None,
        **({name: getattr(cluster, name) for name in _WITH_GPUS} if job.ranked else {}),
        "time": job.time_limit,
        "output": f"{log}.out",
        "error": f"{log}.err",
        "open_mode": "append",
        "requeue": True,
        "signal": f"B:USR1@{cluster.signal_grace_s}",
        "kill_on_invalid_dep": "yes",
        **(cluster.model_extra or {}),
    }
    return [f"#SBATCH {flag}" for name, value in options.items() if (flag := _flag(name, value))]


def warn_of_unknown(cluster: SlurmCluster) -> None:
    """Say which keys of the cluster go to sbatch unread."""
    for name, value in (cluster.model_extra or {}).items():
        logger.warning("cluster.%s is none of conf/cluster/bcm.yaml's keys; sbatch gets %s", name, _flag(name, value))


def _flag(name: str, value: object) -> str | None:
    dashed = f"--{name.replace('_', '-')}"
    if value is None or value is False:
        return None
    return dashed if value is True else f"{dashed}={value}"


def _body(job: Job, settings: LaunchSettings, cluster: SlurmCluster) -> list[str]:
    stage = _run_lines(script.stage_command(job), job, settings, cluster)
    if not (settings.preflight and job.checked):
        return [*stage, "code=$?"]
    checks = script.preflight_lines(_run_lines(script.preflight_command(job), job, settings, cluster), failed=_RED)
    indented = [f"    {line}" for line in [*stage, "code=$?"]]
    asked = ' && [ ! -e "$stop_file" ]' if job.ranked else ""
    return [*checks, "", f'if [ "$code" -eq 0 ]{asked}; then', *indented, "fi"]


def _run_lines(command: script.Command, job: Job, settings: LaunchSettings, cluster: SlurmCluster) -> list[str]:
    words = ["run", "srun", "--kill-on-bad-exit=1", *_srun_options(job, settings, cluster)]
    if job.ranked and cluster.process_launcher == "torchrun":
        options = [
            f"--nnodes={job.nodes}",
            f"--nproc-per-node={job.processes_per_node}",
            "--rdzv-backend=c10d",
            '--rdzv-endpoint="$MASTER_ADDR:$MASTER_PORT"',
            '--rdzv-id="$SLURM_JOB_ID.$restarts"',
            f"--max-restarts={cluster.max_restarts}",
        ]
        words += torchrun_words(settings.python, options, command.script, command.overrides)
    else:
        words += python_words(settings.python, command.script, command.overrides)
    return command_lines(words)


def _srun_options(job: Job, settings: LaunchSettings, cluster: SlurmCluster) -> list[str]:
    options = [f"--mpi={cluster.mpi}"] if cluster.mpi else []
    if cluster.cpus_per_task and job.ranked:  # srun does not take it from sbatch since Slurm 22.05
        options.append(f"--cpus-per-task={cluster.cpus_per_task}")
    if settings.container:
        workdir = cluster.container_workdir or settings.launcher_scripts_path
        own = ["MASTER_ADDR", "MASTER_PORT", STOP_FILE_VARIABLE] if job.ranked else []
        names = dict.fromkeys([*script.environment(job, settings), *own, FAULT_FILE_VARIABLE, *cluster.container_env])
        options += [
            f"--container-image={quote(settings.container)}",
            f"--container-mounts={quote(','.join(map(str, settings.mounts())))}",
            f"--container-workdir={quote(workdir)}",
            f"--container-env={','.join(names)}",  # without it the image's own values win
        ]
    return [*options, *map(str, cluster.srun_args)]
