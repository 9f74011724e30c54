"""What runs in a pod: checks and stage, again after a crash, and exit codes by which Kubernetes knows what to do.

Of a PyTorchJob the operator makes a pod anew whose exit code is above 128, ends the job for one below, and counts neither
(pkg/controller.v1/common/pod.go, pkg/core/job.go): the script counts. Of a plain Job Kubernetes does all that itself.
"""

from __future__ import annotations

from nemo_mm_align.cli.entry_point import EXIT_CODE as SETTINGS_EXIT_CODE
from nemo_mm_align.core.run_files import FAULT_FILE_VARIABLE, JOB_VARIABLE
from nemo_mm_align.launch import script
from nemo_mm_align.launch.jobs import Job
from nemo_mm_align.launch.kubernetes_settings import KubernetesCluster
from nemo_mm_align.launch.settings import LaunchSettings
from nemo_mm_align.launch.shell import RUN_FUNCTION, command_lines, python_words, quote, torchrun_words

SIGNALLED = 143
"""Exit code of a pod that shall be made anew, as of one that TERM has ended."""

PAUSE_S = 30
"""Between one try and the next."""

# Kubernetes shows what stands in it as the reason of a pod's end, and gives each start of a container an empty one.
TERMINATION_LOG = "/dev/termination-log"

_STOP = """\
# A pod that has to leave gets TERM: the ranks look for this file, save and end.
leaving=no
trap 'interrupted=yes; leaving=yes; echo "asked to stop"; touch "$stop_file"' TERM"""

_STOP_SINGLE = """\
# A pod that has to leave gets TERM and hands it on.
task=
trap 'interrupted=yes; echo "asked to stop"; [ -z "$task" ] || kill -TERM "$task"' TERM"""

_NOTE = f"""\
# What no restart mends is noted here, and shown by kubectl describe.
fault_file={TERMINATION_LOG}
export {FAULT_FILE_VARIABLE}="$fault_file\""""

_UNTIL_DONE = f"""\
# Until the work is done. A crash is tried again here, so that the pod keeps its place; the count outlives pods that are
# killed or lost. An exit code above 128 has the pod made anew, one below ends the job.
starts=$(cat "$starts_file" 2>/dev/null || echo 0)
while [ "$leaving" = no ]; do
    rm -f "$stop_file"
    starts=$((starts + 1))
    if [ "$starts" -gt $((max_requeues + 1)) ]; then
        echo "not finished after $max_requeues restarts; the same launch goes on from here" >&2
        rm -f "$starts_file"
        exit 1
    fi
    echo "$starts" > "$starts_file"

    attempt
    code=$?@diverged@
    if [ -s "$fault_file" ] || [ "$code" -eq {SETTINGS_EXIT_CODE} ]; then
        rm -f "$starts_file"
        exit {SETTINGS_EXIT_CODE}
    fi
    if @finished@; then
        rm -f "$starts_file"
        exit 0
    fi
    if [ -e "$stop_file" ]; then
        starts=0 # this pod or another has to leave, and the work is saved
        rm -f "$starts_file"
    else
        echo "not finished (exit code $code) after start $starts"
    fi
    if [ "$leaving" = no ]; then
        sleep {PAUSE_S} & # the ranks of all pods end meanwhile; in the background, since a trap waits for what is not
        wait $!
    fi
done
exit {SIGNALLED}"""


def pod_script(job: Job, settings: LaunchSettings, cluster: KubernetesCluster) -> str:
    """Return the bash script that a pod of a job runs."""
    begin = [
        ["set -u"],
        [
            *script.variable_lines(job, settings),
            "# One object of this name exists at a time: a pod of it may go on in a folder that a lost one has left.",
            f"export {JOB_VARIABLE}={quote(f'{cluster.namespace}/{job.name}')}",
        ],
        script.skip_lines(job),
        [f"cd {quote(settings.launcher_scripts_path)} || exit 1", 'mkdir -p "$results"'],
    ]
    work = _ranked_lines(job, settings, cluster) if job.ranked else _single_lines(job, settings)
    return script.text_of([*begin, *work])


def _single_lines(job: Job, settings: LaunchSettings) -> list[list[str]]:
    checks = ["run", *_words(script.preflight_command(job), job, settings)]
    return [
        [_STOP_SINGLE],
        [RUN_FUNCTION],
        script.preflight_lines(command_lines(checks)) if settings.preflight and job.checked else [],
        [*command_lines(["run", *_words(script.stage_command(job), job, settings)]), "code=$?"],
        script.end_lines(job),
    ]


def _ranked_lines(job: Job, settings: LaunchSettings, cluster: KubernetesCluster) -> list[list[str]]:
    # A port of their own: the last of the checks may end while a pod that was faster starts the stage.
    checks = ["run", *_words(script.preflight_command(job), job, settings, '--master-port="$((MASTER_PORT + 1))"')]
    stage = command_lines(["run", *_words(script.stage_command(job), job, settings)], indent="    ")
    if settings.preflight:
        asked = f'    [ ! -e "$stop_file" ] || return {SIGNALLED}'
        stage = [f"    {script.PREFLIGHT}", *command_lines([*checks, "|| return"], indent="    "), asked, *stage]
    diverged = "".join(f"\n{line}" for line in script.diverged_lines(job, 'rm -f "$starts_file"', indent="    "))
    loop = _UNTIL_DONE.replace("@finished@", script.finished(job)).replace("@diverged@", diverged)
    return [
        [_NOTE],
        [f'starts_file="$results/.starts-{job.name}-$PET_NODE_RANK"', f"max_requeues={cluster.max_requeues}"],
        [_STOP],
        [RUN_FUNCTION],
        ["attempt() {", *stage, "}"],
        [loop],
    ]


def _words(command: script.Command, job: Job, settings: LaunchSettings, *options: str) -> list[str]:
    if job.ranked:
        return torchrun_words(settings.python, options, command.script, command.overrides)
    return python_words(settings.python, command.script, command.overrides)
