"""A job as a bash script that runs on this machine."""

from __future__ import annotations

from nemo_mm_align.launch import script
from nemo_mm_align.launch.jobs import Job
from nemo_mm_align.launch.settings import LaunchSettings
from nemo_mm_align.launch.shell import command_lines, python_words, quote, torchrun_words


def render_interactive(job: Job, settings: LaunchSettings) -> str:
    """Return the text of a job's script: torchrun for stages of several ranks, one process for the others."""
    parts = [
        ["#!/bin/bash"],
        [script.origin(job)],
        ["set -u"],
        script.variable_lines(job, settings),
        script.skip_lines(job),
        [f"cd {quote(settings.launcher_scripts_path)} || exit 1", 'mkdir -p "$results"'],
        ["# Touch this file from elsewhere and the ranks save and end.", 'rm -f "$stop_file"'] if job.ranked else [],
        script.preflight_lines(_lines(script.preflight_command(job), job, settings))
        if settings.preflight and job.checked
        else [],
        [*_lines(script.stage_command(job), job, settings), "code=$?"],
        script.diverged_lines(job),
        script.end_lines(job),
    ]
    return script.text_of(parts)


def _lines(command: script.Command, job: Job, settings: LaunchSettings) -> list[str]:
    if job.processes_per_node == 1:
        return command_lines(python_words(settings.python, command.script, command.overrides))
    options = ["--standalone", f"--nproc-per-node={job.processes_per_node}"]
    return command_lines(torchrun_words(settings.python, options, command.script, command.overrides))
