"""The body of a job script: what Slurm, Kubernetes and this machine have in common, in the order in which it runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nemo_mm_align.cli.entry_point import EXIT_CODE as SETTINGS_EXIT_CODE
from nemo_mm_align.core.run_files import STOP_FILE, STOP_FILE_VARIABLE
from nemo_mm_align.launch.checks import asks_judge
from nemo_mm_align.launch.jobs import Job
from nemo_mm_align.launch.settings import LaunchSettings
from nemo_mm_align.launch.shell import export_lines, quote
from nemo_mm_align.launch.task_answers import task_files
from nemo_mm_align.workflow.overrides import overrides_of

_INPUTS = {
    "sample": ("prompts",),
    "label": ("prompts", "candidates"),
    "build": ("annotations",),
    "generate": ("prompts", "checkpoint"),
    "evaluate": ("prompts",),
}


@dataclass(frozen=True)
class Command:
    """One program of a job: a script of this repository and its arguments."""

    script: str
    overrides: tuple[str, ...] = field(default=())


def text_of(parts: Iterable[Iterable[str]]) -> str:
    """Return the text of a script: the lines of its parts, with an empty line between them; empty parts are left out."""
    blocks = ["\n".join(part) for part in parts]
    return "\n\n".join(block for block in blocks if block) + "\n"


def origin(job: Job) -> str:
    """Return the comment at the head of a script that says what it is."""
    return (
        f"# Stage {job.title}, written by scripts/launch.py; its settings are in {job.settings_file} beside this file."
    )


def skip_lines(job: Job) -> list[str]:
    """Return what ends a job of a launch in rounds that has nothing to do: well, so that what depends on it goes on."""
    lines: list[str] = []
    if job.rounds.stops:
        lines.append("# The rounds may have ended before: then there is nothing to do here.")
    for path in map(quote, job.rounds.stops):
        lines += _leaves(f"-e {path}", f'"{job.title}: nothing to do: $(head -n 1 {path})"')
    if job.rounds.made_of is not None:
        made, source = map(quote, job.rounds.made_of)
        lines += _leaves(f"{made} -nt {source}", f'"{job.title}: nothing to do:" {made} "is there"')
    if job.rounds.diverged_file is not None:
        lines.append(f"rm -f {quote(job.rounds.diverged_file)}")
    return lines


def _leaves(test: str, words: str) -> list[str]:
    """Return what ends a script well where a test of bash holds; `words` are what it says then, quoted."""
    return [f"if [ {test} ]; then", f"    echo {words}", "    exit 0", "fi"]


def diverged_lines(job: Job, first: str = "", indent: str = "") -> list[str]:
    """Return what ends a training well that has diverged, where the rounds go by that; `first` is done before."""
    if job.rounds.diverged_file is None:
        return []
    lines = [
        "# A training that diverged ends the rounds: their review says so, and what depends on this job goes on.",
        f'if [ ! -e "$done_file" ] && [ -e {quote(job.rounds.diverged_file)} ]; then',
        *([f"    {first}"] if first else []),
        "    exit 0",
        "fi",
    ]
    return [f"{indent}{line}" for line in lines]


def stage_command(job: Job) -> Command:
    """Return the stage itself."""
    return Command(job.script, job.overrides)


def preflight_command(job: Job) -> Command:
    """Return the checks before the stage: what it reads and writes, and the training's configuration."""
    tasks = [path for _, path in task_files(job.composed.get("tasks"))]
    read = [*tasks, *(job.composed.get(key) for key in (*_INPUTS.get(job.stage, ()), "judge.api_key_file"))]
    # A key that comes from a file is not looked for in the environment.
    asks = asks_judge(job)
    settings: dict[str, object] = {} if asks and read[-1] else {"stages": [job.stage]}
    if asks:
        settings |= {"judge": job.composed.choices["judge"]} | ({} if job.stage == "label" else {"asks_judge": True})
    out = job.composed.get("out")
    settings |= {"read": [str(path) for path in read if path]} if any(read) else {}
    settings |= {"write": [str(Path(str(out)).parent)]} if out else {}
    judge = [word for word in job.overrides if word.startswith("judge.")] if asks else []
    return Command("scripts/doctor.py", (*overrides_of(settings), *judge, *job.training_overrides))


def variable_lines(job: Job, settings: LaunchSettings) -> list[str]:
    """Return the script's variables and the environment of its programs."""
    run, stop = quote(settings.run.results_dir), quote(str(STOP_FILE))
    lines = [f"results={run}"]
    if job.ranked:
        lines.append(f"stop_file=$results/{stop}")
    if job.done_file is not None:
        lines.append(f"done_file={quote(job.done_file)}")
    lines += ["", *export_lines(environment(job, settings))]
    code = quote(settings.launcher_scripts_path)
    lines.append(f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}")
    if job.ranked:
        lines.append(f'export {STOP_FILE_VARIABLE}="$stop_file"')
    return lines


def environment(job: Job, settings: LaunchSettings) -> dict[str, str]:
    """Return the variables that a job exports; with tensor parallelism kernels are queued in one order."""
    own = {"CUDA_DEVICE_MAX_CONNECTIONS": "1"} if job.tensor_model_parallel_size > 1 else {}
    return {**own, **settings.env_vars}


PREFLIGHT = "# Machine, ranks, paths and layout first: red ends the job here."


def preflight_lines(words: list[str], failed: str = '[ "$code" -gt 0 ]') -> list[str]:
    """Return the checks and what follows from them.

    Args:
        words: the command, broken into lines.
        failed: the condition in bash under which the job ends here.
    """
    return [
        PREFLIGHT,
        *words,
        "code=$?",
        f"if {failed}; then",
        '    echo "preflight failed with exit code $code; the stage was not started" >&2',
        '    exit "$code"',
        "fi",
    ]


def finished(job: Job) -> str:
    """Return the condition in bash under which the stage is finished."""
    return '[ -e "$done_file" ]' if job.done_file is not None else '[ "$code" -eq 0 ]'


def end_lines(job: Job) -> list[str]:
    """Return the end of a script that is not started again by itself."""
    meaning = "the training wrote its marker" if job.done_file is not None else "the script says so"
    return [
        f"# Finished: {meaning}. Anything else is a failure, so that what depends on it does not start.",
        f"if {finished(job)}; then",
        "    exit 0",
        "fi",
        "exit $((code > 0 ? code : 1))",
    ]


SETTINGS_FAULT = f"""\
# A mistake that no restart mends; the error stands in this file. Exit codes do not tell: the ranks that are killed when
# one has failed leave higher ones.
if [ -e "$fault_file" ]; then
    exit {SETTINGS_EXIT_CODE}
fi"""
