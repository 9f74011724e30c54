#!/bin/bash
#SBATCH --job-name=first_build
#SBATCH --partition=cpu
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=1-00:00:00
#SBATCH --output=/shared/results/first/log-first_build_%j.out
#SBATCH --error=/shared/results/first/log-first_build_%j.err
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --kill-on-invalid-dep=yes

# Stage build, written by scripts/launch.py; its settings are in first_build_hydra.yaml beside this file.

set -u

results=/shared/results/first

export PYTHONPATH=/shared/nemo_mm_align${PYTHONPATH:+:$PYTHONPATH}

max_requeues=5
restarts=${SLURM_RESTART_COUNT:-0}

cd /shared/nemo_mm_align || exit 1

mkdir -p "$results"
fault_file=$results/FAULT
export NEMO_MM_ALIGN_FAULT_FILE="$fault_file"
rm -f "$fault_file"

# One job of this name runs at a time: a start of it may go on in a folder that a lost one on another node has left.
export NEMO_MM_ALIGN_JOB="${SLURM_CLUSTER_NAME:-}/${SLURM_JOB_USER:-}/${SLURM_JOB_NAME:-}"

# Slurm sends USR1 before the time limit: the stage writes what it has and ends.
trap 'interrupted=yes; echo "asked to stop"; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

# Runs a command in the background and waits for it: bash runs a trap only between commands, but `wait` ends at once
# for one; the command goes on meanwhile.
run() {
    local code
    "$@" &
    task=$!
    while true; do
        interrupted=no
        wait "$task"
        code=$?
        [ "$interrupted" = yes ] || return "$code"
    done
}

# Machine, ranks, paths and layout first: red ends the job here.
run srun --kill-on-bad-exit=1 --mpi=none python -u scripts/doctor.py 'stages=[build]' \
    'read=[/shared/results/first/annotations.jsonl]' 'write=[/shared/results/first]'
code=$?
if [ "$code" -gt 0 ] && [ "$code" -lt 128 ]; then
    echo "preflight failed with exit code $code; the stage was not started" >&2
    exit "$code"
fi

if [ "$code" -eq 0 ]; then
    run srun --kill-on-bad-exit=1 --mpi=none python -u scripts/build.py method=preference \
        annotations=/shared/results/first/annotations.jsonl out=/shared/results/first/training.jsonl
    code=$?
fi

# A mistake that no restart mends; the error stands in this file. Exit codes do not tell: the ranks that are killed when
# one has failed leave higher ones.
if [ -e "$fault_file" ]; then
    exit 2
fi
# Finished.
if [ "$code" -eq 0 ]; then
    exit 0
fi
# Not finished: start again, as the same job, so that what depends on it waits. Slurm ends this shell; leaving it before
# would end the job.
if [ "$restarts" -lt "$max_requeues" ]; then
    echo "not finished (exit code $code): requeue $((restarts + 1)) of $max_requeues"
    scontrol requeue "$SLURM_JOB_ID" && sleep 600
fi
echo "not finished after $restarts restarts (exit code $code); the same launch goes on from here" >&2
exit $((code > 0 ? code : 1))
